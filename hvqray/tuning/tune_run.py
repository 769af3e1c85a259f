"""Runs on Ray Tune's actors: what the search and the retraining of its best configurations have in common."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.schedulers import TrialScheduler

from hvqray.config.sweep_file import SweepFile
from hvqray.results.events import TrialStart
from hvqray.training.checkpoint import trial_folder
from hvqray.tuning.resources import DRIVER_MEMORY_BYTES, TrialResources
from hvqray.tuning.room import TrialsInWait
from hvqray.tuning.study_search import StudySearch
from hvqray.tuning.trial import HvqrayTrial, TrialSpec


@dataclass(frozen=True)
class SearchPlan:
    """What a sweep's runs need to know besides the sweep file."""

    folder: Path
    num_trials: int | None
    """In all, those of earlier drivers included; None where only time ends the sweep."""
    resources: TrialResources
    cache_dir: Path | None
    time_budget_s: float | None
    seed: int


def spec_of(sweep: SweepFile, plan: SearchPlan, start: TrialStart) -> TrialSpec:
    """What an actor is told of a run."""
    metric = sweep.metric[0]
    return TrialSpec(
        trial_id=start.trial_id,
        run=start.config,
        folder=str(trial_folder(plan.folder, start.trial_id)),
        metric=metric.name,
        maximize=metric.goal == "maximize",
        objectives=[each.name for each in sweep.metric],
        cache_dir=None if plan.cache_dir is None else str(plan.cache_dir),
        workers=plan.resources.workers,
        cpus_per_worker=plan.resources.cpus_per_worker,
        gpus_per_worker=plan.resources.gpus_per_worker,
        train_storage=str(plan.folder / ".state" / "train"),
        memory_per_worker=plan.resources.memory_per_worker,
    )


def run_on_tune(
    sweep: SweepFile,
    plan: SearchPlan,
    *,
    name: str,
    callbacks: list[tune.Callback],
    num_samples: int,
    config: dict[str, Any] | None = None,
    search: StudySearch | None = None,
    scheduler: TrialScheduler | None = None,
    time_budget_s: float | None = None,
) -> None:
    """Run trials in reused actors, as many at once as the plan says, until there are no more.

    Configurations come from `search`, or from a grid in `config`.
    """
    scratch = plan.folder / ".state" / "tune"
    try:
        tune.run(
            HvqrayTrial,
            name=name,
            storage_path=str(scratch),
            config=config,
            search_alg=search,
            scheduler=scheduler,
            num_samples=num_samples,
            max_concurrent_trials=plan.resources.max_concurrent_trials,
            resources_per_trial=_placement(plan.resources),
            reuse_actors=True,
            max_failures=sweep.resources.max_failures,
            raise_on_failed_trial=False,
            time_budget_s=time_budget_s,
            callbacks=[*callbacks, TrialsInWait(plan.resources)],
            verbose=0,
            trial_dirname_creator=_dirname,
            trial_name_creator=_dirname,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(plan.folder / ".state" / "train", ignore_errors=True)


def _placement(resources: TrialResources) -> PlacementGroupFactory:
    if resources.workers > 1:
        return PlacementGroupFactory([{"memory": DRIVER_MEMORY_BYTES}])
    return PlacementGroupFactory([resources.of_worker])


def _dirname(trial: Any) -> str:
    return TrialSpec.from_config(trial.config).trial_id
