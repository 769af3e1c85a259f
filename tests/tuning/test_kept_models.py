"""Whose weights stay on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hvqray.results.events import TrialEnd
from hvqray.results.history import TrialRecord
from hvqray.training.checkpoint import MODEL_FILE, trial_folder
from hvqray.tuning.kept_models import NUM_KEPT, KeptModels, remove_maps_without_models

METRIC = "val/image_auroc"


def trained(folder: Path, number: int) -> None:
    path = trial_folder(folder, f"t{number:04d}")
    path.mkdir(parents=True)
    (path / MODEL_FILE).write_bytes(b"weights")


def end(number: int, value: float | None, state: Any = "COMPLETE") -> TrialEnd:
    return TrialEnd(f"t{number:04d}", state, {METRIC: value}, epochs=1, duration_s=1.0)


def earlier(number: int, value: float, state: Any = "COMPLETE") -> TrialRecord:
    return TrialRecord(f"t{number:04d}", number, state, {}, {METRIC: value}, 1, 1.0, "hash", 0, None, "0.1.0")


def kept(folder: Path) -> set[int]:
    return {int(path.parent.name[1:]) for path in folder.rglob(MODEL_FILE)}


@pytest.mark.parametrize(("goal", "best"), [("maximize", {2, 3, 4, 5, 6}), ("minimize", {0, 1, 2, 3, 4})])
def test_the_best_keep_their_weights_whatever_the_order(tmp_path: Path, goal: Any, best: set[int]) -> None:
    keeper = KeptModels(tmp_path, {METRIC: goal}, earlier=[])
    for number in (3, 0, 6, 1, 5, 2, 4):
        trained(tmp_path, number)
        keeper.on_trial_end(end(number, 0.1 * number))
    assert kept(tmp_path) == best
    assert len(best) == NUM_KEPT


def test_of_equals_the_lowest_numbers_stay(tmp_path: Path) -> None:
    keeper = KeptModels(tmp_path, {METRIC: "maximize"}, earlier=[])
    for number in (3, 6, 0, 5, 1, 4, 2):  # as they end; the numbers decide, as for the sweep's best
        trained(tmp_path, number)
        keeper.on_trial_end(end(number, 0.9))
    assert kept(tmp_path) == set(range(NUM_KEPT))


@pytest.mark.parametrize("last", [end(1, 0.99, "PRUNED"), end(1, None, "FAIL"), end(1, None)])
def test_trials_that_cannot_be_the_best_keep_none(tmp_path: Path, last: TrialEnd) -> None:
    keeper = KeptModels(tmp_path, {METRIC: "maximize"}, earlier=[])
    for number, event in enumerate((end(0, 0.5), last)):
        trained(tmp_path, number)
        keeper.on_trial_end(event)
    assert kept(tmp_path) == {0}


def test_trials_of_an_earlier_driver_count(tmp_path: Path) -> None:
    records = [earlier(number, 0.5 + 0.01 * number) for number in range(NUM_KEPT)]
    for number in range(NUM_KEPT + 1):
        trained(tmp_path, number)
    keeper = KeptModels(tmp_path, {METRIC: "maximize"}, earlier=records)
    assert kept(tmp_path) == set(range(NUM_KEPT + 1))
    keeper.on_trial_end(end(NUM_KEPT, 0.52))
    assert kept(tmp_path) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("state", ["PRUNED", "FAIL"])
def test_those_of_an_earlier_driver_that_did_not_complete_take_no_one_s_place(
    tmp_path: Path, state: Any
) -> None:
    stopped = [earlier(NUM_KEPT + number, 0.9, state) for number in range(NUM_KEPT)]
    for number in range(NUM_KEPT):
        trained(tmp_path, number)
    complete = [earlier(number, 0.5) for number in range(NUM_KEPT)]
    KeptModels(tmp_path, {METRIC: "maximize"}, earlier=[*complete, *stopped])
    assert kept(tmp_path) == set(range(NUM_KEPT))


def test_with_their_weights_trials_lose_their_example_maps(tmp_path: Path) -> None:
    for number in (0, 1, 2):
        trained(tmp_path, number)
        (trial_folder(tmp_path, f"t{number:04d}") / "maps").mkdir()
    keeper = KeptModels(tmp_path, {METRIC: "maximize"}, earlier=[])
    keeper.on_trial_end(end(0, None))
    keeper.on_trial_end(end(1, 0.5))
    (trial_folder(tmp_path, "t0002") / MODEL_FILE).unlink()  # still running
    remove_maps_without_models(tmp_path, [earlier(0, 0.4), earlier(1, 0.5)])
    assert {path.parent.name for path in tmp_path.rglob("maps")} == {"t0001", "t0002"}
