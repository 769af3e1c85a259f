"""The metrics of a class, where they are undefined, and their means."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from hvqray.config.metric_names import is_of_image_metrics
from hvqray.metrics import (
    IMAGE_METRICS,
    METRIC_NAMES,
    PIXEL_METRICS,
    THRESHOLD,
    MaskRegions,
    image_metrics,
    joint_metric,
    pixel_metrics,
    summarize,
)

NO_PIXEL_METRICS = dict.fromkeys(PIXEL_METRICS)
NO_IMAGE_METRICS = dict.fromkeys((*IMAGE_METRICS, THRESHOLD))


def some_class(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Maps and masks (6, 12, 12); three images have a defect."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((6, 12, 12), dtype=np.uint8)
    masks[:3, 2:5, 3:9] = 1
    return (rng.normal(size=masks.shape) + masks).astype(np.float32), masks


def test_names_are_the_contract() -> None:
    assert METRIC_NAMES == (
        "image_auroc",
        "image_ap",
        "image_f1max",
        "pixel_auroc",
        "pixel_ap",
        "pixel_f1max",
        "pixel_aupro",
    )


def test_image_metrics_equal_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    labels = rng.random(50) < 0.5
    scores = (rng.normal(size=50) + labels).astype(np.float32)
    metrics = image_metrics(labels, scores)
    assert metrics["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert metrics["image_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
    assert metrics["image_f1max"] == pytest.approx(
        max(f1_score(labels, scores >= t) for t in scores), abs=1e-9
    )


def test_threshold_calls_what_f1max_calls_and_keeps_off_every_score() -> None:
    labels = np.array([False, False, True, False, True])
    scores = np.array([0.0, 1.0, 3.0, 2.0, 5.0])
    threshold = image_metrics(labels, scores)[THRESHOLD]
    assert threshold == 2.5


def test_threshold_where_all_are_called_anomalous() -> None:
    assert image_metrics(np.array([True, False]), np.array([1.0, 1.0]))[THRESHOLD] == 1.0


def test_pixel_metrics_equal_scikit_learn() -> None:
    maps, masks = some_class()
    metrics = pixel_metrics(maps, MaskRegions.from_masks(masks))
    assert metrics["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-9)
    assert metrics["pixel_ap"] == pytest.approx(
        average_precision_score(masks.ravel(), maps.ravel()), abs=1e-9
    )
    best = max(f1_score(masks.ravel(), maps.ravel() >= t) for t in maps[masks.astype(bool)])
    assert metrics["pixel_f1max"] == pytest.approx(best, abs=1e-9)


def test_one_image_with_a_defect_has_pixel_metrics_but_no_image_metrics() -> None:
    maps, masks = some_class()
    assert image_metrics(np.array([True]), maps[:1].max((1, 2))) == NO_IMAGE_METRICS
    metrics = pixel_metrics(maps[:1], MaskRegions.from_masks(masks[:1]))
    assert all(0 < value < 1 for value in metrics.values() if value is not None)
    assert None not in metrics.values()


@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_has_no_metric(fill: float) -> None:
    maps, masks = some_class()
    maps[4, 0, 0] = fill
    assert pixel_metrics(maps, MaskRegions.from_masks(masks)) == NO_PIXEL_METRICS
    assert image_metrics(masks.any((1, 2)), maps.max((1, 2)) * fill) == NO_IMAGE_METRICS


@pytest.mark.parametrize("fill", [0, 1])
def test_one_kind_of_pixel_only_has_no_metric(fill: int) -> None:
    maps, masks = some_class()
    assert pixel_metrics(maps, MaskRegions.from_masks(np.full_like(masks, fill))) == NO_PIXEL_METRICS


def test_missing_masks_and_empty_classes_have_no_metric() -> None:
    maps, masks = some_class()
    assert pixel_metrics(maps, None) == NO_PIXEL_METRICS
    assert pixel_metrics(maps[:0], MaskRegions.from_masks(masks[:0])) == NO_PIXEL_METRICS
    assert image_metrics(np.empty(0, dtype=bool), np.empty(0)) == NO_IMAGE_METRICS


def test_constant_maps_are_chance() -> None:
    _, masks = some_class()
    metrics = pixel_metrics(np.zeros(masks.shape, dtype=np.float32), MaskRegions.from_masks(masks))
    share = masks.mean()
    assert metrics == pytest.approx(
        {"pixel_auroc": 0.5, "pixel_ap": share, "pixel_f1max": 2 * share / (1 + share), "pixel_aupro": 0.15}
    )


def test_maps_of_another_shape() -> None:
    maps, masks = some_class()
    with pytest.raises(ValueError, match="shape"):
        pixel_metrics(maps[:5], MaskRegions.from_masks(masks))


def test_the_joint_metric_is_the_mean_of_the_seven_and_without_masks_of_those_on_images() -> None:
    maps, masks = some_class()
    labels, scores = masks.any((1, 2)), maps.max((1, 2))
    metrics = image_metrics(labels, scores) | pixel_metrics(maps, MaskRegions.from_masks(masks))
    seven = (
        roc_auc_score(labels, scores)
        + average_precision_score(labels, scores)
        + max(f1_score(labels, scores >= t) for t in scores)
        + roc_auc_score(masks.ravel(), maps.ravel())
        + average_precision_score(masks.ravel(), maps.ravel())
        + max(f1_score(masks.ravel(), maps.ravel() >= t) for t in maps[masks.astype(bool)])
        + (metrics["pixel_aupro"] or 0)
    ) / 7
    of_all = joint_metric(metrics, has_masks=True)
    assert of_all == {"mad": pytest.approx(seven, abs=1e-9)}
    assert not is_of_image_metrics(metrics | of_all)
    unmasked = image_metrics(labels, scores) | pixel_metrics(maps, None)
    of_images = joint_metric(unmasked, has_masks=False)
    assert of_images == {"mad": pytest.approx(sum(unmasked[name] or 0 for name in IMAGE_METRICS) / 3)}
    assert is_of_image_metrics(unmasked | of_images)


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_the_joint_metric_is_undefined_where_one_that_enters_is(name: str) -> None:
    metrics: dict[str, float | None] = {**dict.fromkeys(METRIC_NAMES, 0.5), name: None}
    assert joint_metric(metrics, has_masks=True) == {"mad": None}
    assert not is_of_image_metrics({**metrics, "mad": None})
    without_masks = {**metrics, **dict.fromkeys(PIXEL_METRICS)}
    assert joint_metric(without_masks, has_masks=False) == {"mad": None if name in IMAGE_METRICS else 0.5}
    not_measured = {key: value for key, value in metrics.items() if key != name}
    assert joint_metric(not_measured, has_masks=True) == {}


def test_a_mean_is_of_all_classes_that_were_measured_or_absent() -> None:
    assert summarize({"a": {"mad": 0.5}, "b": {"mad": None}})["mad"] == 0.5
    assert summarize({"a": {"mad": 0.5}, "b": {}}) == {"a/mad": 0.5}


def test_means_are_over_the_classes_where_defined() -> None:
    flat = summarize(
        {
            "a": {"image_auroc": 0.5, "pixel_ap": None, THRESHOLD: 3.0},
            "b": {"image_auroc": None, "pixel_ap": None, THRESHOLD: None},
            "c": {"image_auroc": 1.0, "pixel_ap": None, THRESHOLD: 5.0},
        }
    )
    assert flat == {
        "image_auroc": 0.75,
        "image_auroc.num_classes": 2.0,
        "pixel_ap": None,
        "pixel_ap.num_classes": 0.0,
        "a/image_auroc": 0.5,
        "b/image_auroc": None,
        "c/image_auroc": 1.0,
        "a/pixel_ap": None,
        "b/pixel_ap": None,
        "c/pixel_ap": None,
        f"a/{THRESHOLD}": 3.0,
        f"b/{THRESHOLD}": None,
        f"c/{THRESHOLD}": 5.0,
    }
