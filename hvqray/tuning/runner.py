"""The search itself: Optuna's study, Tune's scheduler and the trial actors, put together and run to the end."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory

from hvqray.config.run_config import config_hash
from hvqray.config.sweep_file import SweepFile, resolve_run_config
from hvqray.results.events import SweepListener, TrialStart
from hvqray.results.store import SweepStore, read_trials, read_unfinished
from hvqray.training.checkpoint import remove_resume_state, trial_folder
from hvqray.tuning.relay import Relay
from hvqray.tuning.resources import TrialResources
from hvqray.tuning.resume import open_storage, reconcile, study_name
from hvqray.tuning.samplers import make_sampler
from hvqray.tuning.schedulers import make_scheduler
from hvqray.tuning.space import SearchSpace
from hvqray.tuning.study_search import StudySearch
from hvqray.tuning.trial import HvqrayTrial, TrialSpec

DRIVER_MEMORY_BYTES = 64 * 2**20
"""What the actor that minds a worker group reserves: some memory, so that every core is left to the workers."""


@dataclass(frozen=True)
class SearchPlan:
    """What `run_search` needs to know besides the sweep file."""

    folder: Path
    num_trials: int | None
    """In all, those of earlier drivers included; None where only time ends the sweep."""
    resources: TrialResources
    cache_dir: Path | None
    time_budget_s: float | None
    seed: int


def run_search(
    sweep: SweepFile, plan: SearchPlan, store: SweepStore, listeners: Sequence[SweepListener]
) -> None:
    """Run trials until the number, the time or the target is reached; results go to the listeners."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    metrics = [metric.name for metric in sweep.metric]
    goals = [metric.goal for metric in sweep.metric]
    name = study_name(sweep.name, metrics, goals)
    storage = open_storage(plan.folder / "study.db", name)
    ended, unfinished = read_trials(plan.folder), read_unfinished(plan.folder)
    for record in ended:
        remove_resume_state(trial_folder(plan.folder, record.trial_id))
    if plan.num_trials is not None and plan.num_trials <= len(ended):
        return
    num_samples = -1 if plan.num_trials is None else plan.num_trials - len(ended)
    relay = Relay(store, listeners, metrics)
    space = SearchSpace(sweep.parameters)
    search = StudySearch(
        space,
        metrics=metrics,
        goals=goals,
        sampler=make_sampler(
            sweep.method, plan.seed + len(ended), len(metrics), space=space, num_trials=plan.num_trials
        ),
        study_name=name,
        storage=storage,
        resolve=lambda number, params: _start(sweep, number, params),
        announce=relay.announce,
        to_config=lambda start: _spec(sweep, plan, start).to_config(),
        target=sweep.metric[0].target,
    )
    search.hand_out_first(unfinished, reconcile(search.study, ended, unfinished, metrics))
    scratch = plan.folder / ".state" / "tune"
    try:
        tune.run(
            HvqrayTrial,
            name=f"{sweep.name}-{len(ended):04d}",
            storage_path=str(scratch),
            search_alg=search,
            scheduler=make_scheduler(
                sweep.early_terminate,
                metrics[0],
                "max" if goals[0] == "maximize" else "min",
                sweep.max_epochs(),
            ),
            num_samples=num_samples,
            max_concurrent_trials=plan.resources.max_concurrent_trials,
            resources_per_trial=_placement(plan.resources),
            reuse_actors=True,
            max_failures=sweep.resources.max_failures,
            raise_on_failed_trial=False,
            time_budget_s=plan.time_budget_s,
            callbacks=[relay],
            verbose=0,
            trial_dirname_creator=_dirname,
            trial_name_creator=_dirname,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(plan.folder / ".state" / "train", ignore_errors=True)


def study_of(folder: Path) -> optuna.Study:
    """The one study in a sweep's folder."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
    (summary,) = storage.get_all_studies()
    return optuna.load_study(study_name=summary.study_name, storage=storage)


def _start(sweep: SweepFile, number: int, params: dict[str, Any]) -> TrialStart:
    run = resolve_run_config(sweep, params)
    return TrialStart(
        trial_id=f"t{number:04d}",
        number=number,
        params=params,
        config=run.model_dump(mode="json", by_alias=True),
        config_hash=config_hash(run),
        seed=run.train.seed,
    )


def _spec(sweep: SweepFile, plan: SearchPlan, start: TrialStart) -> TrialSpec:
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
    )


def _placement(resources: TrialResources) -> PlacementGroupFactory:
    if resources.workers > 1:
        return PlacementGroupFactory([{"memory": DRIVER_MEMORY_BYTES}])
    bundle = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        bundle["GPU"] = resources.gpus_per_worker
    return PlacementGroupFactory([bundle])


def _dirname(trial: Any) -> str:
    return TrialSpec.from_config(trial.config).trial_id
