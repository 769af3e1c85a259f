"""Baselines beside the best model's results."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_sweep import write_fake_sweep

from hvqray.baselines.measure import ChosenBaseline
from hvqray.metrics import IMAGE_METRICS, MaskRegions, pixel_metrics
from hvqray.metrics.histogram_file import writing_histograms
from hvqray.metrics.pixel_histograms import PixelHistograms
from hvqray.results.confirmation import ConfirmedConfiguration, Spread, confirm_record
from hvqray.results.sweep_folder import BestResult, read_best
from hvqray.training.measure import PIXELS_FILE, SCORES_FILE
from hvqray.tuning.baseline_records import write_baselines, write_other_sweep, write_without_quantizer
from hvqray.tuning.measured import measured_folder


def test_results_are_added_and_replaced_by_name(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"trial_id": "t0001", "metrics": {}}))
    write_baselines(tmp_path, [ChosenBaseline("padim", {}, {"test/image_auroc": 0.1})])
    write_baselines(tmp_path, [ChosenBaseline("no_quantizer", {}, {"test/image_auroc": None})])
    write_baselines(
        tmp_path, [ChosenBaseline("padim", {"nut": {"image_score": "maximum"}}, {"test/image_auroc": 0.2})]
    )
    record = json.loads(path.read_text())
    assert record["trial_id"] == "t0001"
    assert record["baselines"] == [
        {
            "name": "padim",
            "settings": {"nut": {"image_score": "maximum"}},
            "metrics": {"test/image_auroc": 0.2},
        },
        {"name": "no_quantizer", "settings": {}, "metrics": {"test/image_auroc": None}},
    ]


def confirmed(trial_id: str, *values: float) -> ConfirmedConfiguration:
    spread = Spread(list(values), sum(values) / len(values), 0.1)
    run_ids = [f"{trial_id}-s{seed}" for seed in range(len(values))]
    return ConfirmedConfiguration(
        trial_id, list(range(len(values))), run_ids, {"test/image_auroc": spread}, {}
    )


def reread(best: Path) -> BestResult:
    found = read_best(best.parent)
    assert found is not None
    return found


def test_over_seeds_its_means_are_a_baseline_and_its_spreads_are_told(tmp_path: Path) -> None:
    best = write_fake_sweep(tmp_path / "one") / "best"
    record = json.loads((best / "metrics.json").read_text())
    own = confirmed("t0002", 0.8, 0.9)
    record |= {"trial_id": "t0002", "run_id": "t0002-s1", "confirm": confirm_record([own])}
    (best / "metrics.json").write_text(json.dumps(record))
    write_without_quantizer(best, confirmed("t0002-no-quantizer", 0.1, 0.1))
    write_without_quantizer(best, confirmed("t0002-no-quantizer", 0.6, 0.8))  # again, after --resume
    result = reread(best)
    assert [each.trial_id for each in result.confirmed] == ["t0002", "t0002-no-quantizer"]
    assert result.confirmed[1].metrics["test/image_auroc"].values == [0.6, 0.8]
    (baseline,) = [each for each in result.baselines if each.name == "no_quantizer"]
    assert baseline.title == "no quantiser (seeds 0, 1)"
    assert baseline.metrics["test/image_auroc"] == pytest.approx(0.7)
    # Held against it is the mean over the same seeds, not the best one of them.
    what, metrics = result.held_against_baselines()
    assert what == "t0002 (mean over 2 seeds)"
    assert metrics["test/image_auroc"] == pytest.approx(0.85)


def test_a_single_run_is_a_baseline_and_no_confirmation(tmp_path: Path) -> None:
    best = write_fake_sweep(tmp_path / "one") / "best"
    write_without_quantizer(best, confirmed("t0005-no-quantizer", 0.6))
    result = reread(best)
    assert result.confirmed == []
    (baseline,) = [each for each in result.baselines if each.name == "no_quantizer"]
    assert (baseline.title, baseline.metrics["test/image_auroc"]) == ("no quantiser", 0.6)
    assert result.held_against_baselines() == (result.run_id, result.metrics)


LABELS = np.array([False] * 6 + [True] * 6)


def write_scores(checkpoint: Path, shift: float) -> np.ndarray:
    """Test scores of one class; the larger the shift, the better they tell defects."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    scores = np.random.default_rng(0).normal(size=12) + shift * LABELS
    columns = {"class_name": ["nut"] * 12, "is_anomalous": LABELS, "score": scores, "group": np.arange(12)}
    pq.write_table(pa.table(columns), checkpoint / SCORES_FILE)
    return scores


def best_of(folder: Path, record: dict[str, Any]) -> Path:
    best = folder / "best"
    best.mkdir(exist_ok=True)
    (best / "metrics.json").write_text(json.dumps({"metrics": {}, **record}))
    return best


def told(best: Path) -> dict[str, Any]:
    (entry,) = json.loads((best / "metrics.json").read_text())["baselines"]
    return entry


def test_what_the_best_model_has_more_has_an_interval(tmp_path: Path) -> None:
    best = best_of(tmp_path, {"trial_id": "t0001"})
    scores = write_scores(best, shift=1.0)
    worse = ChosenBaseline(
        "padim", {}, {}, {"nut": (scores - 3.0 * LABELS).tolist()}, {"nut": LABELS.tolist()}
    )
    write_baselines(best, [worse])
    more = told(best)["more"]
    assert more["test/image_auroc"]["low"] > 0.1
    assert "test_scores" not in told(best)
    write_baselines(best, [replace(worse, test_scores={"nut": [None, *scores.tolist()[1:]]})])
    assert told(best)["more"] == {}, "undefined on one side"
    write_baselines(best, [worse])
    (best / SCORES_FILE).unlink()
    write_baselines(best, [worse])
    assert told(best)["more"] == more, "kept, as nothing else changed"
    write_baselines(best, [replace(worse, settings={"nut": {"smoothing": 0}})])
    assert "more" not in told(best)


def test_so_have_pixel_metrics_where_both_left_histograms(tmp_path: Path) -> None:
    best = best_of(tmp_path, {"trial_id": "t0001", "metrics": {}})
    scores = write_scores(best, shift=1.0)
    masks = np.zeros((12, 8, 8), dtype=np.uint8)
    masks[LABELS, 2:5, 3:6] = 1
    noise, regions = np.random.default_rng(0).normal(size=masks.shape), MaskRegions.from_masks(masks)

    def write_pixels(path: Path, gain: float) -> dict[str, float | None]:
        maps = (noise + gain * masks).astype(np.float32)
        with writing_histograms(path) as writer:
            writer.add("nut", PixelHistograms.from_maps(maps, regions))
        return {f"test/nut/{metric}": value for metric, value in pixel_metrics(maps, regions).items()}

    best_of(tmp_path, {"trial_id": "t0001", "metrics": write_pixels(best / PIXELS_FILE, 2.0)})
    path = tmp_path / "padim.npz"
    padim = ChosenBaseline(
        "padim",
        {},
        write_pixels(path, 1.0),
        {"nut": (scores - LABELS).tolist()},
        {"nut": LABELS.tolist()},
        {"nut": path},
    )
    write_baselines(best, [padim])
    won = json.loads((best / "metrics.json").read_text())["metrics"]["test/nut/pixel_auroc"]
    won -= padim.metrics["test/nut/pixel_auroc"]
    for name in ("test/nut/pixel_auroc", "test/pixel_auroc"):
        interval = told(best)["more"][name]
        assert 0 < interval["low"] < won < interval["high"]
    write_baselines(best, [replace(padim, test_pixels={})])
    assert set(told(best)["more"]) == {
        f"test/{prefix}{metric}" for prefix in ("nut/", "") for metric in IMAGE_METRICS
    }


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ({"nut": [0.0] * 11}, {"nut": [False] * 5 + [True] * 6}),
        ({"nut": [0.0] * 12}, {"nut": [True] * 6 + [False] * 6}),
        ({}, {}),
        ({"nut": [0.0] * 12, "cap": [0.0]}, {"nut": LABELS.tolist(), "cap": [True]}),
    ],
)
def test_a_dataset_that_has_changed_since_is_not_compared_image_by_image(
    tmp_path: Path, scores: dict[str, list[float | None]], labels: dict[str, list[bool]]
) -> None:
    best = best_of(tmp_path, {"trial_id": "t0001"})
    write_scores(best, shift=1.0)
    write_baselines(best, [ChosenBaseline("padim", {}, {"test/image_auroc": 0.5}, scores, labels)])
    assert told(best) == {"name": "padim", "settings": {}, "metrics": {"test/image_auroc": 0.5}}


def test_of_a_confirmed_configuration_it_is_over_all_seeds(tmp_path: Path) -> None:
    own = confirmed("t0002", 0.8, 0.9)
    record = {"trial_id": "t0002", "run_id": "t0002-s1", "confirm": confirm_record([own])}
    best = best_of(tmp_path, record)
    good, _ = (
        write_scores(measured_folder(tmp_path, f"t0002-s{seed}"), shift)
        for seed, shift in enumerate((3.0, -3.0))
    )
    write_baselines(best, [ChosenBaseline("padim", {}, {}, {"nut": good.tolist()}, {"nut": LABELS.tolist()})])
    more = told(best)["more"]["test/image_auroc"]
    assert more["high"] >= 0.0, "both seeds drawn are the good one"
    assert more["low"] < -0.5, "both are the bad one"
    write_scores(measured_folder(tmp_path, "t0002-no-quantizer-s0"), -3.0)
    write_scores(measured_folder(tmp_path, "t0002-no-quantizer-s1"), -3.0)
    best_of(tmp_path, record)
    write_without_quantizer(best, confirmed("t0002-no-quantizer", 0.1, 0.1))
    assert told(best)["more"]["test/image_auroc"]["low"] <= 0.0
    assert told(best)["more"]["test/image_auroc"]["high"] > 0.5
    shutil.rmtree(tmp_path / ".state")
    best_of(tmp_path, record)
    write_without_quantizer(best, confirmed("t0002-no-quantizer", 0.1, 0.1))
    assert "more" not in told(best), "the runs' scores are gone"


def test_another_sweep_is_a_baseline_over_all_its_seeds(tmp_path: Path) -> None:
    best = write_fake_sweep(tmp_path / "one") / "best"
    other = write_fake_sweep(tmp_path / "plain")
    record = json.loads((other / "best" / "metrics.json").read_text())
    confirmation = confirm_record([confirmed("t0002", 0.6, 0.8)])
    (other / "best" / "metrics.json").write_text(
        json.dumps(record | {"trial_id": "t0002", "run_id": "t0002-s1", "confirm": confirmation})
    )
    write_scores(best, shift=2.0)
    write_scores(other / "best", shift=9.0)  # its best seed, which counts for no more than the others
    for seed in range(2):
        write_scores(measured_folder(other, f"t0002-s{seed}"), shift=-2.0)
    for _ in range(2):
        write_other_sweep(best, other, name="plain")
    (baseline,) = [each for each in reread(best).baselines if each.name.startswith("sweep ")]
    assert baseline.title == "sweep plain (seeds 0, 1, trial t0002)"
    assert baseline.metrics["test/image_auroc"] == pytest.approx(0.7)
    assert baseline.more["test/nut/image_auroc"][0] > 0.3


def test_another_sweep_that_was_not_confirmed_is_a_baseline_by_its_best_model(tmp_path: Path) -> None:
    best = write_fake_sweep(tmp_path / "one") / "best"
    other = write_fake_sweep(tmp_path / "plain")
    write_scores(best, shift=2.0)
    write_scores(other / "best", shift=-2.0)
    write_other_sweep(best, other, name="plain")
    found = read_best(other)
    assert found is not None
    (baseline,) = [each for each in reread(best).baselines if each.name == "sweep plain"]
    assert baseline.title == f"sweep plain (trial {found.trial_id})"
    assert baseline.metrics == found.metrics
    assert baseline.more["test/nut/image_auroc"][0] > 0.3
