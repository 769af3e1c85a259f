"""Which configurations are retrained, which runs are still to do, and what is made of those that have ended."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_images import write_space

from hvqray.config.run_config import config_hash, run_config_dict
from hvqray.config.sections import ConfirmConfig, RunConfig
from hvqray.config.sweep_file import load_sweep
from hvqray.results.confirm_store import ConfirmStore, read_confirm_runs
from hvqray.results.confirmation import ConfirmedConfiguration
from hvqray.results.events import TrialEnd, TrialStart
from hvqray.results.store import SweepStore
from hvqray.results.stored_trials import read_trials
from hvqray.training.checkpoint import RESUME_FILE, trial_folder
from hvqray.training.epoch_report import EpochReport
from hvqray.training.measure import SCORES_FILE
from hvqray.tuning import confirm
from hvqray.tuning.confirm import (
    completed_runs,
    configurations_to_confirm,
    confirmed_configuration,
    held_against_best,
)
from hvqray.tuning.measured import measured_folder
from hvqray.tuning.resources import TrialResources
from hvqray.tuning.trial import REPORT_KEY, TrialSpec
from hvqray.tuning.tune_run import SearchPlan

METRIC = "val/image_auroc"
GOALS: Any = {METRIC: "maximize"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A search of five trials; t0003 is t0001 with another seed, t0004 is the best and failed."""
    folder = tmp_path / "s"
    store = SweepStore(folder, resume=False, selected_on_test=False)
    for number, (lr, seed, value) in enumerate(
        [(1e-3, 0, 0.7), (2e-3, 0, 0.9), (3e-3, 0, 0.8), (2e-3, 5, 0.85), (4e-3, 0, 0.99)]
    ):
        run = RunConfig.model_validate({"train": {"lr": lr, "seed": seed}})
        start = TrialStart(
            f"t{number:04d}", number, {"train.lr": lr}, run_config_dict(run), config_hash(run), seed
        )
        store.on_trial_start(start)
        store.on_trial_end(
            TrialEnd(start.trial_id, "FAIL" if number == 4 else "COMPLETE", {METRIC: value}, 3, 1.0)
        )
    store.close()
    return folder


def runs_of(folder: Path, top_k: int = 2, seeds: tuple[int, ...] = (1, 2)) -> dict[str, list[TrialStart]]:
    return configurations_to_confirm(
        folder, read_trials(folder), GOALS, ConfirmConfig(top_k=top_k, seeds=list(seeds))
    )


def test_the_best_distinct_configurations_are_retrained_with_each_seed(folder: Path) -> None:
    found = runs_of(folder)
    assert list(found) == ["t0001", "t0002"], "t0003 is t0001 again, t0004 was never complete"
    assert [run.trial_id for run in found["t0001"]] == ["t0001-s1", "t0001-s2"]
    one = found["t0001"][1]
    assert (one.seed, one.config["train"]["seed"], one.confirms) == (2, 2, "t0001")
    assert one.params == {"train.lr": 2e-3, "train.seed": 2}
    assert one.config_hash == config_hash(RunConfig.model_validate({"train": {"lr": 2e-3, "seed": 2}}))
    assert list(runs_of(folder, top_k=9)) == ["t0001", "t0002", "t0000"]


def confirm_with(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    starts: list[TrialStart],
    *,
    num_ending: int,
    failing: str | None = None,
) -> list[str]:
    """Run the confirmation with Tune played; the ids of the runs that it was given."""
    last = EpochReport(1, 1, {METRIC: 0.5}, 1.0, is_last=True, best_epoch=1, selected={METRIC: 0.5})
    given: list[str] = []

    class TuneTrial:
        last_result: Any = None

        def __init__(self, spec: str) -> None:
            self.config = {"spec": spec}

    def played(sweep: Any, plan: Any, *, callbacks: Any, config: Any, **rest: Any) -> None:
        for number, spec in enumerate(config["spec"]["grid_search"]):
            trial = TuneTrial(spec)
            given.append(TrialSpec.from_config(trial.config).trial_id)
            for callback in callbacks:
                callback.on_trial_start(0, [], trial)
                callback.on_trial_start(0, [], trial)  # as after a crash
            if number < num_ending:
                if given[-1] != failing:
                    trial.last_result = {REPORT_KEY: json.dumps(asdict(last))}
                for callback in callbacks:
                    callback.on_trial_complete(0, [], trial)

    monkeypatch.setattr(confirm, "run_on_tune", played)
    sweep = load_sweep(write_space(tmp_path))
    plan = SearchPlan(folder, None, TrialResources(1, 1.0, 0.0, 2), None, None, seed=0)
    heard = Heard()
    store = ConfirmStore(folder, code_version="1.0")
    confirm.run_confirmation(sweep, plan, starts, store, [heard])
    store.close()
    assert heard.started == given, "each is announced once"
    return given


class Heard:
    def __init__(self) -> None:
        self.started: list[str] = []

    def on_trial_start(self, event: TrialStart) -> None:
        self.started.append(event.trial_id)

    def on_epoch(self, trial_id: str, report: Any) -> None: ...

    def on_trial_end(self, event: TrialEnd) -> None: ...

    def close(self) -> None: ...


def test_finished_runs_are_not_repeated(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = [run for runs in runs_of(folder).values() for run in runs]
    ids = [start.trial_id for start in starts]
    assert confirm_with(folder, tmp_path, monkeypatch, starts, num_ending=1) == ids
    left = trial_folder(folder, ids[0])
    left.mkdir(parents=True)
    (left / RESUME_FILE).write_bytes(b"the driver died before it could remove this")
    assert confirm_with(folder, tmp_path, monkeypatch, starts, num_ending=9) == ids[1:]
    assert not (left / RESUME_FILE).exists()
    assert confirm_with(folder, tmp_path, monkeypatch, starts, num_ending=9) == []
    assert list(read_confirm_runs(folder)) == ids[:2] + ids[2:]
    # Another seed later on is one more run.
    more = [run for runs in runs_of(folder, seeds=(1, 2, 3)).values() for run in runs]
    assert confirm_with(folder, tmp_path, monkeypatch, more, num_ending=9) == ["t0001-s3", "t0002-s3"]
    assert [trial.trial_id for trial in read_trials(folder)] == [f"t{n:04d}" for n in range(5)]


def test_failed_runs_are_tried_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What killed a run of a configuration that the search has trained to the end may well be gone."""
    starts = runs_of(folder)["t0001"]
    confirm_with(folder, tmp_path, monkeypatch, starts, num_ending=9, failing="t0001-s2")
    assert completed_runs(folder, starts) == ["t0001-s1"]
    assert confirm_with(folder, tmp_path, monkeypatch, starts, num_ending=9) == ["t0001-s2"]
    assert completed_runs(folder, starts) == ["t0001-s1", "t0001-s2"]
    assert confirm_with(folder, tmp_path, monkeypatch, starts, num_ending=9) == []


def test_a_configuration_is_summed_up_over_its_completed_runs(folder: Path) -> None:
    runs = runs_of(folder, seeds=(1, 2, 3))["t0001"]
    store = ConfirmStore(folder, code_version="1.0")
    for run in runs:
        store.on_trial_start(run)
        failed = run.seed == 2
        store.on_trial_end(
            TrialEnd(
                run.trial_id, "FAIL" if failed else "COMPLETE", {}, 1, 1.0, "diverged" if failed else None
            )
        )
        if not failed:
            write_measured(folder, run.trial_id, 0.1 * run.seed)
    store.close()
    assert completed_runs(folder, runs) == ["t0001-s1", "t0001-s3"]
    found = confirmed_configuration(folder, "t0001", runs)
    assert (found.seeds, found.run_ids) == ([1, 3], ["t0001-s1", "t0001-s3"])
    assert found.failed == {"t0001-s2": "diverged"}
    assert found.metrics["test/pixel_auroc"].values == pytest.approx([0.1, 0.3])
    assert found.metrics["test/bolt/image_auroc"].interval == "bootstrap over images and seeds"


def test_the_best_configuration_is_compared_with_the_others(tmp_path: Path) -> None:
    confirmed = []
    for trial_id in ("t0001", "t0002", "t0003", "t0004", "t0005"):
        run_ids = [f"{trial_id}-s0", f"{trial_id}-s1"]
        # Of t0003 all seeds failed, of t0004 other images were measured, and what was measured of t0005 is gone.
        if trial_id not in ("t0003", "t0005"):
            for run_id in run_ids:
                shuffled = trial_id == "t0001"
                num_images = 6 if trial_id == "t0004" else 8
                write_measured(tmp_path, run_id, 0.5, shuffled=shuffled, num_images=num_images)
        confirmed.append(
            ConfirmedConfiguration(trial_id, [0, 1], [] if trial_id == "t0003" else run_ids, {}, {})
        )
    held = held_against_best(tmp_path, confirmed, "t0002")
    assert [each.trial_id for each in held if each.more] == ["t0001"]
    low, high = held[0].more["test/bolt/image_auroc"]
    # The best one ranks all images rightly, the other half of the pairs.
    assert low < 0.5 < high <= 1
    assert (low + high) / 2 == pytest.approx(0.5, abs=0.1)
    assert held[1:] == confirmed[1:]


def write_measured(
    folder: Path, run_id: str, value: float, *, shuffled: bool = False, num_images: int = 8
) -> None:
    measured = measured_folder(folder, run_id)
    measured.mkdir(parents=True)
    names = (METRIC, "test/image_auroc", "test/bolt/image_auroc", "test/pixel_auroc")
    (measured / "metrics.json").write_text(json.dumps({"metrics": dict.fromkeys(names, value)}))
    labels = np.arange(num_images) >= num_images // 2
    table = {
        "class_name": ["bolt"] * num_images,
        "group": range(num_images),
        "is_anomalous": labels,
        "score": np.arange(num_images) % 2 * 1.0 if shuffled else np.arange(num_images) * 1.0,
    }
    pq.write_table(pa.table(table), measured / SCORES_FILE)
