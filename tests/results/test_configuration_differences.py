"""What the best of the confirmed configurations has more than the others."""

from __future__ import annotations

from typing import Any

import pytest

from hvqray.results.configuration_differences import difference_lines, difference_tables
from hvqray.results.confirmation import ConfirmedConfiguration, Spread


def configuration(trial_id: str, value: float, **more: tuple[float, float]) -> ConfirmedConfiguration:
    spread = Spread([value, value], value, 0.0)
    metrics = {"test/image_auroc": spread, "test/bolt/image_auroc": spread}
    intervals = {f"test/{name}": interval for name, interval in more.items()}
    return ConfirmedConfiguration(
        trial_id, [0, 1], [f"{trial_id}-s0", f"{trial_id}-s1"], metrics, {}, intervals
    )


def test_each_configuration_that_was_compared_has_a_table_and_a_line() -> None:
    confirmed = [
        configuration("t0003", 0.5, image_auroc=(0.2, 0.6)),
        configuration("t0001", 0.9),
        configuration("t0002", 0.8, image_auroc=(-0.1, 0.3)),
        configuration("t0004", 0.7),  # measured on other images
    ]
    tables = difference_tables(confirmed, "t0001", {})
    assert [table.baseline.label for table in tables] == ["t0003", "t0002"]
    gains = [table.gains[-1]["image_auroc"] for table in tables]
    assert [gain.verdict for gain in gains] == ["won", "open"]
    assert [gain.more for gain in gains] == pytest.approx([0.4, 0.1])
    assert difference_lines(confirmed, "t0001", {}, mark=" (selected on test)") == [
        "t0001 against t0003: image AUROC won by 0.4000 (95 %: +0.2000 to +0.6000) (test, mean over the classes) (selected on test)",
        "t0001 against t0002: image AUROC +0.1000 (95 %: -0.1000 to +0.3000, not decided) (test, mean over the classes) (selected on test)",
    ]


PARAMS: dict[str, dict[str, Any]] = {
    "t0001": {"model.quantizer": "fsq", "model.fsq_levels": [8, 6, 5], "train.lr": 1e-3},
    "t0002": {"model.quantizer": "vq", "model.codebook_size": 240, "train.lr": 1e-3},
    "t0003": {"model.quantizer": "fsq", "model.fsq_levels": [8, 6, 5], "train.lr": 1e-3},
    "t0004": {"model.quantizer": "vq", "model.codebook_size": 64, "model.width": 32, "train.lr": 1e-2},
}


def test_another_configuration_is_told_with_what_it_has_other_than_the_best_one() -> None:
    """If that is short: t0004 has four parameters of its own, t0003 none."""
    others = ("t0002", "t0003", "t0004")
    confirmed = [configuration("t0001", 0.9)]
    confirmed += [configuration(trial_id, 0.8, image_auroc=(0.0, 0.2)) for trial_id in others]
    labels = [table.baseline.label for table in difference_tables(confirmed, "t0001", PARAMS)]
    assert labels == ["t0002 (quantizer=vq codebook_size=240)", "t0003", "t0004"]


def test_where_nothing_was_compared_there_is_nothing() -> None:
    """One configuration alone, and what an earlier version recorded."""
    for confirmed in (
        [],
        [configuration("t0001", 0.9)],
        [configuration("t0001", 0.9), configuration("t0002", 0.8)],
    ):
        assert difference_tables(confirmed, "t0001", {}) == []
        assert difference_lines(confirmed, "t0001", {}) == []
