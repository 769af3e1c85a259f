"""The seven metrics of anomaly detection per class, and codebook health; NumPy only."""

from hvqray.metrics.aupro import MaskRegions
from hvqray.metrics.codebook import codebook_use, count_codes
from hvqray.metrics.per_class import (
    IMAGE_METRICS,
    METRIC_NAMES,
    PIXEL_METRICS,
    ROUTER_ACCURACY,
    THRESHOLD,
    image_metrics,
    pixel_metrics,
    summarize,
)

__all__ = [
    "IMAGE_METRICS",
    "METRIC_NAMES",
    "PIXEL_METRICS",
    "ROUTER_ACCURACY",
    "THRESHOLD",
    "MaskRegions",
    "codebook_use",
    "count_codes",
    "image_metrics",
    "pixel_metrics",
    "summarize",
]
