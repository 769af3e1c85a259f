"""Flat metric names survive their way through the long table."""

from __future__ import annotations

import pytest

from hvqray.results.tables import _flat_name
from hvqray.training.epoch_report import split_metric_name


@pytest.mark.parametrize(
    "name",
    [
        "val/image_auroc",
        "val/metal nut/image_f1max.threshold",
        "val/cookie/router_accuracy",
        "train/loss",
        "codebook/top/use",
        "codebook/q0/cookie/perplexity",
        "codebook/q0/perplexity_given_top",
    ],
)
def test_a_name_is_put_together_from_its_parts_again(name: str) -> None:
    assert _flat_name(*split_metric_name(name)) == name
