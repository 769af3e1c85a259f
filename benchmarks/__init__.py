"""Measurements of cost: each module is one command, `python -m benchmarks.NAME [--quick]`; see README.md here."""
