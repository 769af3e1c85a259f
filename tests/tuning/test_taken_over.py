"""Trials of the search that stand for retraining runs of the same configuration and seed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hvqray import environment
from hvqray.config.run_config import config_hash, run_config_dict
from hvqray.config.sections import ConfirmConfig, RunConfig
from hvqray.results.confirm_store import ConfirmStore, read_confirm_epochs, read_confirm_runs
from hvqray.results.events import TrialEnd, TrialStart
from hvqray.results.store import SweepStore
from hvqray.results.stored_trials import read_starts, read_trials
from hvqray.results.wandb_earlier import read_earlier_runs
from hvqray.training.checkpoint import CONFIG_FILE, METRICS_FILE, MODEL_FILE, RESUME_FILE, trial_folder
from hvqray.training.epoch_report import EpochReport
from hvqray.tuning import taken_over
from hvqray.tuning.confirm import configurations_to_confirm
from hvqray.tuning.measured import measured_folder
from hvqray.tuning.taken_over import take_over

METRIC = "val/image_auroc"
GOALS: Any = {METRIC: "maximize"}


@pytest.fixture
def version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A search of three trials of seed 0, the middle one the best; the code version that its journal has."""
    monkeypatch.setattr(environment, "code_version", lambda: "0.1.0+gabc")
    store = SweepStore(tmp_path, resume=False, selected_on_test=False)
    for number, value in enumerate((0.7, 0.9, 0.8)):
        lr = 1e-3 * (number + 1)
        run = RunConfig.model_validate({"train": {"lr": lr}})
        start = TrialStart(
            f"t{number:04d}", number, {"train.lr": lr}, run_config_dict(run), config_hash(run), seed=0
        )
        store.on_trial_start(start)
        for epoch, of_epoch in ((1, value), (2, value - 0.1)):
            store.on_epoch(start.trial_id, EpochReport(epoch, 2, {METRIC: of_epoch}, 10.0 * epoch))
        folder = trial_folder(tmp_path, start.trial_id)
        write_checkpoint(folder, start.trial_id)
        end = TrialEnd(start.trial_id, "COMPLETE", {METRIC: value}, 2, 20.0, folder=str(folder), best_epoch=1)
        store.on_trial_end(end)
    store.close()
    return store.info.environment["code_version"]


def write_checkpoint(folder: Path, trial_id: str) -> None:
    (folder / "maps").mkdir(parents=True)
    (folder / "maps" / "nut_000_map.png").write_bytes(b"a map")
    (folder / "measured").mkdir()
    (folder / ".measured.x").mkdir()  # of a process that was killed
    (folder / CONFIG_FILE).write_text("train: {}\n")
    (folder / METRICS_FILE).write_text(json.dumps({"trial_id": trial_id, "metrics": {METRIC: 0.9}}))
    (folder / MODEL_FILE).write_bytes(b"weights")
    (folder / RESUME_FILE).write_bytes(b"left by a driver that died")


def runs_of(folder: Path, *seeds: int, top_k: int = 2) -> list[TrialStart]:
    config = ConfirmConfig(top_k=top_k, seeds=list(seeds))
    found = configurations_to_confirm(folder, read_trials(folder), GOALS, config)
    return [run for runs in found.values() for run in runs]


def taken(folder: Path, runs: list[TrialStart], version: str, *listeners: Any) -> dict[str, str]:
    store = ConfirmStore(folder, code_version=version)
    found = take_over(folder, runs, [store, *listeners], code_version=version)
    store.close()
    return found


class Heard:
    def __init__(self) -> None:
        self.events: list[Any] = []

    def on_trial_start(self, event: TrialStart) -> None:
        self.events.append((event.trial_id, event.confirms))

    def on_epoch(self, trial_id: str, report: EpochReport) -> None:
        self.events.append((trial_id, report.epoch, report.is_last, report.num_epochs))

    def on_trial_end(self, event: TrialEnd) -> None:
        self.events.append((event.trial_id, event.state))

    def close(self) -> None: ...


def test_trials_stand_for_the_runs_of_their_seed(tmp_path: Path, version: str) -> None:
    heard = Heard()
    runs = runs_of(tmp_path, 1, 0)
    assert taken(tmp_path, runs, version, heard) == {"t0001-s0": "t0001", "t0002-s0": "t0002"}
    assert heard.events[:4] == [
        ("t0001-s0", "t0001"),
        ("t0001-s0", 1, False, 2),
        ("t0001-s0", 2, True, 2),
        ("t0001-s0", "COMPLETE"),
    ]
    ended = read_confirm_runs(tmp_path)
    assert list(ended) == ["t0001-s0", "t0002-s0"]
    one = ended["t0001-s0"]
    assert (one.state, one.metrics, one.epochs, one.seed) == ("COMPLETE", {METRIC: 0.9}, 2, 0)
    assert (one.duration_s, one.params["train.seed"]) == (20.0, 0)
    assert read_confirm_epochs(tmp_path)["t0001-s0"] == {1: {METRIC: 0.9}, 2: {METRIC: 0.8}}
    told = read_earlier_runs(tmp_path, "t0001-s0".__eq__)["t0001-s0"]
    assert [seconds for _, seconds in told.epochs.values()] == [10.0, 20.0]
    assert told.end is not None
    assert (told.end.folder, told.end.best_epoch) == (str(trial_folder(tmp_path, "t0001-s0")), 1)
    assert taken(tmp_path, runs, version) == {}, "each once"


def test_the_run_has_a_whole_folder_of_its_own(
    tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError("no hard links here")

    for run_id in ("t0001-s0", "t0002-s0"):
        stale = trial_folder(tmp_path, f".{run_id}.x")
        stale.mkdir()
        if run_id == "t0002-s0":
            monkeypatch.setattr(os, "link", no_links)
        runs = [run for run in runs_of(tmp_path, 0) if run.trial_id == run_id]
        assert taken(tmp_path, runs, version)
        assert not stale.exists()
        folder = trial_folder(tmp_path, run_id)
        linked = (folder / MODEL_FILE).samefile(trial_folder(tmp_path, run_id[:5]) / MODEL_FILE)
        assert linked == (run_id == "t0001-s0")
        assert {path.name for path in folder.iterdir()} == {CONFIG_FILE, METRICS_FILE, MODEL_FILE, "maps"}
        assert (folder / "maps" / "nut_000_map.png").read_bytes() == b"a map"
        assert json.loads((folder / METRICS_FILE).read_text()) == {
            "trial_id": run_id,
            "metrics": {METRIC: 0.9},
        }
        trial = trial_folder(tmp_path, run_id[:5])
        (trial / MODEL_FILE).unlink()  # as of a trial that others have beaten
        assert (folder / MODEL_FILE).read_bytes() == b"weights"
        assert measured_folder(tmp_path, run_id[:5]).exists()


def test_only_a_whole_trial_of_this_version_stands_for_a_run_that_has_not_begun(
    tmp_path: Path, version: str
) -> None:
    best, second = runs_of(tmp_path, 0)
    assert taken(tmp_path, [best], "another version") == {}
    assert taken(tmp_path, runs_of(tmp_path, 3), version) == {}, "no trial had that seed"
    begun = trial_folder(tmp_path, best.trial_id)
    begun.mkdir()  # a driver died while the run was being trained
    (begun / RESUME_FILE).write_bytes(b"state")
    assert taken(tmp_path, [best], version) == {}
    for name in (MODEL_FILE, CONFIG_FILE, METRICS_FILE):
        path = trial_folder(tmp_path, "t0002") / name
        content = path.read_bytes()
        path.unlink()
        assert taken(tmp_path, [second], version) == {}
        path.write_bytes(content)
    assert read_confirm_runs(tmp_path) == {}
    assert taken(tmp_path, [second], version)


def test_what_a_checkout_with_changes_trained_stands_for_nothing(
    tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been trained before the last of them."""
    monkeypatch.setattr(environment, "code_version", lambda: f"{version}.dirty")
    store = SweepStore(tmp_path, resume=True, selected_on_test=False)
    (run,) = runs_of(tmp_path, 0, top_k=1)
    (start,) = (each for each in read_starts(tmp_path).values() if each.trial_id == "t0001")
    store.on_trial_start(start)
    store.close()
    assert read_trials(tmp_path)[1].code_version == f"{version}.dirty"
    assert taken(tmp_path, [run], f"{version}.dirty") == {}


def test_a_run_that_ended_is_not_taken_over_though_its_folder_is_gone(tmp_path: Path, version: str) -> None:
    runs = runs_of(tmp_path, 0)
    store = ConfirmStore(tmp_path, code_version=version)
    store.on_trial_start(runs[0])
    store.on_trial_end(TrialEnd(runs[0].trial_id, "FAIL", {}, 0, 1.0, error="it diverged"))
    store.close()
    assert taken(tmp_path, runs, version) == {"t0002-s0": "t0002"}


def test_of_equal_trials_the_first_stands(tmp_path: Path, version: str) -> None:
    store = SweepStore(tmp_path, resume=True, selected_on_test=False)
    start = read_starts(tmp_path)["t0001"]
    store.on_trial_start(replace(start, trial_id="t0003", number=3))
    write_checkpoint(trial_folder(tmp_path, "t0003"), "t0003")
    store.on_trial_end(TrialEnd("t0003", "COMPLETE", {METRIC: 0.9}, 2, 20.0))
    store.close()
    assert taken(tmp_path, runs_of(tmp_path, 0, top_k=1), version) == {"t0001-s0": "t0001"}


def test_what_a_kill_left_half_done_is_done_again(tmp_path: Path, version: str) -> None:
    class Killed(Heard):
        def on_epoch(self, trial_id: str, report: EpochReport) -> None:
            raise KeyboardInterrupt

    runs = runs_of(tmp_path, 0)
    with pytest.raises(KeyboardInterrupt):
        take_over(tmp_path, runs, [Killed()], code_version=version)
    assert (trial_folder(tmp_path, "t0001-s0") / MODEL_FILE).exists()
    assert taken(tmp_path, runs, version) == {"t0001-s0": "t0001", "t0002-s0": "t0002"}
    assert list(read_confirm_runs(tmp_path)) == ["t0001-s0", "t0002-s0"]


def test_a_copy_that_fails_leaves_nothing(
    tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(text: str) -> Any:
        raise OSError(28, "No space left on device")

    before = set(trial_folder(tmp_path, "t0001").parent.iterdir())
    monkeypatch.setattr(taken_over.json, "loads", full)
    with pytest.raises(OSError, match="No space"):
        take_over(tmp_path, runs_of(tmp_path, 0), [], code_version=version)
    assert set(trial_folder(tmp_path, "t0001").parent.iterdir()) == before


def test_a_trial_that_was_stopped_early_stands_for_nothing(tmp_path: Path, version: str) -> None:
    runs = runs_of(tmp_path, 0)
    store = SweepStore(tmp_path, resume=True, selected_on_test=False)
    store.on_trial_end(TrialEnd("t0001", "PRUNED", {METRIC: 0.9}, 1, 10.0))
    store.close()
    assert taken(tmp_path, runs, version) == {"t0002-s0": "t0002"}
