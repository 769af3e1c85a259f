"""The seven metrics of one class, their joint figure mAD, and the means over classes.

Legend: n images of one class, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32

from hvqray.metrics.aupro import MaskRegions, aupro
from hvqray.metrics.ranking import auroc, average_precision, f1_max, rank_scores

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_aupro")
METRIC_NAMES = IMAGE_METRICS + PIXEL_METRICS
MAD = "mad"
"""Name of the mean of a class's metrics."""
ROUTER_ACCURACY = "router_accuracy"
"""Name of the share of a class's images that a predicting router takes for that class."""
THRESHOLD = "image_f1max.threshold"
"""Name of the image score from which on an image is called anomalous, where F1 is largest."""


def image_metrics(
    labels_n: Bool[np.ndarray, " n"], scores_n: Float[np.ndarray, " n"]
) -> dict[str, float | None]:
    """The three image metrics and `THRESHOLD`, of labels (True is anomalous) and scores (higher is more anomalous).

    All are None where there are not both normal and anomalous images, or a score is not finite.
    """
    ranking = rank_scores(scores_n, labels_n)
    if ranking is None:
        return dict.fromkeys((*IMAGE_METRICS, THRESHOLD))
    f1, lowest_called = f1_max(ranking)
    return {
        "image_auroc": auroc(ranking),
        "image_ap": average_precision(ranking),
        "image_f1max": f1,
        THRESHOLD: _middle_of_gap_below(lowest_called, scores_n),
    }


def pixel_metrics(
    maps_nHW: Float32[np.ndarray, "n H W"], regions: MaskRegions | None
) -> dict[str, float | None]:
    """The four pixel metrics over all images of the class, normal ones included.

    `regions` are those of the masks; None says that masks are missing. All are None where that is so, where there are not both
    normal and anomalous pixels, or a map is not finite.

    Raises:
        ValueError: maps and masks differ in shape.
    """
    if regions is None:
        return dict.fromkeys(PIXEL_METRICS)
    if maps_nHW.shape != regions.shape:
        raise ValueError(f"maps of shape {maps_nHW.shape} for masks of shape {regions.shape}")
    ranking = rank_scores(maps_nHW.reshape(-1), regions.is_anomalous())
    if ranking is None:
        return dict.fromkeys(PIXEL_METRICS)
    return {
        "pixel_auroc": auroc(ranking),
        "pixel_ap": average_precision(ranking),
        "pixel_f1max": f1_max(ranking)[0],
        "pixel_aupro": aupro(ranking, regions),
    }


def joint_metric(metrics: Mapping[str, float | None], *, has_masks: bool) -> dict[str, float | None]:
    """`MAD` of one class: the mean of all seven of its `metrics`, or of the image metrics where `has_masks` says that an anomalous
    image has no mask, so that there are no others.

    None where one of those that enter is; empty where one was not measured.

    Source: the mAD of Zhang et al., Exploring Plain ViT Reconstruction for Multi-class Unsupervised Anomaly Detection
    (arXiv 2312.07495), is the mean of all seven.
    """
    names = METRIC_NAMES if has_masks else IMAGE_METRICS
    if not metrics.keys() >= set(names):
        return {}
    return {MAD: mean_metric(metrics, names)}


def mean_metric(metrics: Mapping[str, float | None], names: Sequence[str]) -> float | None:
    """The mean of those `names` of one class; None where one of them is undefined."""
    values = [metrics.get(name) for name in names]
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(names) if len(defined) == len(names) else None


def summarize(per_class: dict[str, dict[str, float | None]]) -> dict[str, float | None]:
    """Flat names of class name -> metric -> value: `CLASS/METRIC`, and its mean for each of `METRIC_NAMES`, `MAD` and
    `ROUTER_ACCURACY` that all classes have.

    `METRIC` is the mean over the classes in which it is defined (None where in none), `METRIC.num_classes` their number.
    """
    flat: dict[str, float | None] = {}
    for metric in (*METRIC_NAMES, MAD, ROUTER_ACCURACY):
        values = [metrics[metric] for metrics in per_class.values() if metric in metrics]
        defined = [value for value in values if value is not None]
        if values and len(values) == len(per_class):
            flat[metric] = sum(defined) / len(defined) if defined else None
            flat[f"{metric}.num_classes"] = float(len(defined))
    for class_name, metrics in per_class.items():
        flat.update({f"{class_name}/{metric}": value for metric, value in metrics.items()})
    return flat


def _middle_of_gap_below(score: float, scores_n: Float[np.ndarray, " n"]) -> float:
    """Halfway from `score` to the next lower one, so that rounding in a later prediction does not change a label."""
    lower = scores_n[scores_n < score]
    return (score + float(lower.max())) / 2 if len(lower) else score
