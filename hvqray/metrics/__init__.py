"""The metrics of anomaly detection per class, and codebook health; NumPy only."""

from hvqray.metrics.aupro import MaskRegions
from hvqray.metrics.codebook import (
    CodePairs,
    add_pairs,
    codebook_use,
    count_codes,
    count_pairs,
    perplexity_given,
)
from hvqray.metrics.per_class import (
    IMAGE_METRICS,
    MAD,
    METRIC_NAMES,
    PIXEL_METRICS,
    ROUTER_ACCURACY,
    THRESHOLD,
    image_metrics,
    joint_metric,
    mean_metric,
    pixel_metrics,
    summarize,
)

__all__ = [
    "IMAGE_METRICS",
    "MAD",
    "METRIC_NAMES",
    "PIXEL_METRICS",
    "ROUTER_ACCURACY",
    "THRESHOLD",
    "CodePairs",
    "MaskRegions",
    "add_pairs",
    "codebook_use",
    "count_codes",
    "count_pairs",
    "image_metrics",
    "joint_metric",
    "mean_metric",
    "perplexity_given",
    "pixel_metrics",
    "summarize",
]
