"""The best trial's folder for users."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_checkpoint import write_checkpoint, write_dataset

from hvqray.results.events import Goal
from hvqray.results.history import TrialRecord
from hvqray.training.checkpoint import METRICS_FILE, load_model, trial_folder
from hvqray.tuning.best import _install, best_trial

METRIC = "val/image_auroc"


def record(number: int, value: float | None, state: Any = "COMPLETE") -> TrialRecord:
    return TrialRecord(f"t{number:04d}", number, state, {}, {METRIC: value}, 3, 1.0, "hash", 0, None, "0.1.0")


@pytest.mark.parametrize(("goal", "expected"), [("maximize", "t0003"), ("minimize", "t0001")])
def test_the_best_trial_is_complete_and_has_the_best_value(goal: Goal, expected: str) -> None:
    trials = [
        record(0, 0.99, "PRUNED"),
        record(1, 0.2),
        record(2, None),
        record(3, 0.8),
        record(4, 0.01, "FAIL"),
        record(5, 0.5),
    ]
    best = best_trial(trials, {METRIC: goal})
    assert best is not None
    assert best.trial_id == expected


def test_without_a_complete_trial_there_is_no_best_one() -> None:
    assert best_trial([record(0, 0.9, "PRUNED"), record(1, None, "FAIL")], {METRIC: "maximize"}) is None


@pytest.fixture
def sweep(tmp_path: Path) -> tuple[Path, Path]:
    """A sweep's folder with trial t0000, and the cache."""
    write_dataset(tmp_path / "data")
    folder, cache = tmp_path / "runs" / "s", tmp_path / "cache"
    model = {"name": "hvq", "width": 16, "num_heads": 2, "feedforward_width": 32, "codebook_size": 4}
    write_checkpoint(trial_folder(folder, "t0000"), tmp_path / "data", cache, model=model)
    return folder, cache


def test_best_is_a_whole_checkpoint_measured_on_test(sweep: tuple[Path, Path]) -> None:
    folder, cache = sweep
    trial = trial_folder(folder, "t0000")
    before = (trial / METRICS_FILE).read_bytes()
    found = _install(folder, "t0000", 1, False, cache)
    assert {path.name for path in (folder / "best").iterdir()} == {
        "config.yaml",
        "model.safetensors",
        "metrics.json",
        "maps",
    }
    assert json.loads((folder / "best" / METRICS_FILE).read_text()) == found
    assert found["metrics"]["test/image_auroc"] is not None
    assert load_model(folder / "best").config == load_model(trial).config
    assert (trial / METRICS_FILE).read_bytes() == before, "the trial itself never sees test"
    assert {path.name for path in folder.iterdir()} == {".state", "best"}


def test_a_new_best_takes_the_old_one_s_place_only_when_it_is_whole(
    sweep: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = sweep
    (folder / "best").mkdir()
    (folder / "best" / "old.txt").write_text("old")

    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no test data")

    with monkeypatch.context() as patch:
        patch.setattr("hvqray.tuning.best.measure_on_test", broken)
        with pytest.raises(RuntimeError, match="no test data"):
            _install(folder, "t0000", 1, False, cache)
    assert [path.name for path in (folder / "best").iterdir()] == ["old.txt"]
    assert {path.name for path in folder.iterdir()} == {".state", "best"}
    _install(folder, "t0000", 1, False, cache)
    assert not (folder / "best" / "old.txt").exists()
