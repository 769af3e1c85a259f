"""Distributed hyperparameter search for quantised anomaly-detection models."""

__version__ = "0.1.0"
