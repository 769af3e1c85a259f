"""Which objectives a search may have."""

from __future__ import annotations

import pytest

from hvqray.config.metric_names import (
    METRICS,
    class_fault,
    class_of,
    is_measured_on_pixels,
    is_of_image_metrics,
    metric_name_fault,
)
from hvqray.metrics import MAD, METRIC_NAMES


def test_they_are_those_that_are_measured() -> None:
    assert (*METRIC_NAMES, MAD) == METRICS
    assert [metric for metric in METRICS if not is_measured_on_pixels(f"val/pixel_x/{metric}")] == [
        "image_auroc",
        "image_ap",
        "image_f1max",
    ]


@pytest.mark.parametrize("metric", METRICS)
def test_known(metric: str) -> None:
    assert metric_name_fault(f"val/{metric}") is None
    assert metric_name_fault(f"val/metal_nut/{metric}") is None
    assert class_of(f"val/{metric}") is None
    assert class_of(f"val/metal_nut/{metric}") == "metal_nut"


@pytest.mark.parametrize(
    "name", ["", "val", "val/", "val/loss", "image_auroc", "train/loss", "val//image_ap", "val/cookie/loss"]
)
def test_unknown(name: str) -> None:
    assert metric_name_fault(name)


def test_mends() -> None:
    assert "'val/pixel_ap'" in str(metric_name_fault("val/pixel_app"))
    assert "'val/cookie/pixel_ap'" in str(metric_name_fault("val/cookie/pixel_app"))
    assert "'val/cookie/pixel_ap'" in str(metric_name_fault("test/cookie/pixel_ap"))
    assert "'val/image_auroc'" in str(metric_name_fault("image_auroc"))
    assert "did you mean 'val/mad'?" in str(metric_name_fault("val/mAD"))
    assert "did you mean 'val/cookie/mad'?" in str(metric_name_fault("val/cookie/mda"))
    assert "use 'val/mad'" in str(metric_name_fault("test/mad"))


def test_classes_that_the_data_do_not_have() -> None:
    assert class_fault("val/mad", ["cookie", "nut"]) is None
    assert class_fault("val/nut/mad", ["cookie", "nut"]) is None
    told = "the data have no class 'cooky'; did you mean 'cookie'?"
    assert class_fault("val/cooky/mad", ["cookie", "nut"]) == told


def test_whether_a_joint_metric_was_taken_without_pixel_metrics() -> None:
    undefined = {"a/mad": 0.5, "a/image_ap": 0.5, "a/pixel_ap": None, "b/mad": None}
    assert is_of_image_metrics(undefined, "a/")
    assert not is_of_image_metrics(undefined, "b/")
    assert not is_of_image_metrics({**undefined, "a/pixel_ap": 0.5}, "a/")
    assert is_of_image_metrics({"mad": 0.5})
