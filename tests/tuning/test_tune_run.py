"""What Tune and a trial's actor are told of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from small_images import write_space

from hvqray.config.sweep_file import load_sweep
from hvqray.results.events import TrialStart
from hvqray.tuning.resources import TrialResources
from hvqray.tuning.room import TrialsInWait
from hvqray.tuning.tune_run import SearchPlan, run_on_tune, spec_of

RESOURCES = TrialResources(2, 1.5, 0.5, 3, memory_per_worker=2**30)


def plan(folder: Path) -> SearchPlan:
    return SearchPlan(folder, 5, RESOURCES, folder / "cache", 60.0, seed=0)


@pytest.mark.parametrize(
    ("metrics", "objectives", "maximize"),
    [
        ("{name: val/image_auroc, goal: maximize}", ["val/image_auroc"], True),
        ("{name: val/image_ap, goal: minimize}", ["val/image_ap"], False),
        (
            "[{name: val/image_ap, goal: minimize}, {name: val/image_auroc, goal: maximize}]",
            ["val/image_ap", "val/image_auroc"],
            False,
        ),
    ],
)
def test_a_trial_chooses_its_epoch_by_the_first_objective_and_reports_all(
    tmp_path: Path, metrics: str, objectives: Sequence[str], maximize: bool
) -> None:
    sweep = load_sweep(write_space(tmp_path), [f"metric={metrics}"])
    spec = spec_of(sweep, plan(tmp_path), TrialStart("t0004", 4, {}, {"train": {}}, "hash", 0))
    assert (spec.metric, spec.maximize, spec.objectives) == (objectives[0], maximize, objectives)
    assert (spec.trial_id, spec.run, spec.cache_dir) == ("t0004", {"train": {}}, str(tmp_path / "cache"))
    assert (spec.workers, spec.cpus_per_worker, spec.gpus_per_worker) == (2, 1.5, 0.5)
    assert spec.memory_per_worker == 2**30


def test_tune_is_told_the_sweep_s_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(tune, "run", lambda trainable, **options: told.update(options))
    sweep = load_sweep(write_space(tmp_path), ["resources.max_failures=4"])
    run_on_tune(sweep, plan(tmp_path), name="s", callbacks=[], num_samples=5, time_budget_s=60.0)
    assert (told["num_samples"], told["time_budget_s"]) == (5, 60.0)
    assert (told["max_failures"], told["max_concurrent_trials"]) == (4, 3)
    assert [type(each) for each in told["callbacks"]] == [TrialsInWait]
    assert not told["raise_on_failed_trial"], "one trial's failure is not the sweep's"
