"""The search itself: Optuna's study, Tune's scheduler and the trial actors, put together and run to the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna

from hvqray.config.run_config import config_hash, merged_sections
from hvqray.config.sections import TrainConfig
from hvqray.config.sweep_file import SweepFile, resolve_run_config
from hvqray.errors import InputError
from hvqray.results.events import SweepListener, TrialStart
from hvqray.results.store import SweepStore
from hvqray.results.stored_trials import read_all_epochs, read_starts, read_trials, read_unfinished
from hvqray.training.checkpoint import remove_resume_state, trial_folder
from hvqray.tuning.earlier_epochs import EarlierEpochs, results_again
from hvqray.tuning.relay import Relay
from hvqray.tuning.resume import open_storage, reconcile, study_name
from hvqray.tuning.samplers import EXHAUSTIVE, make_sampler
from hvqray.tuning.schedulers import make_scheduler
from hvqray.tuning.space import SearchSpace
from hvqray.tuning.study_search import StudySearch
from hvqray.tuning.tune_run import SearchPlan, run_on_tune, spec_of


def run_search(
    sweep: SweepFile, plan: SearchPlan, store: SweepStore, listeners: Sequence[SweepListener]
) -> str | None:
    """Run trials until the number, the time or the target is reached; results go to the listeners.

    Returns the id of the trial that reached the target, where that ended the search.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    metrics = [metric.name for metric in sweep.metric]
    goals = [metric.goal for metric in sweep.metric]
    name = study_name(sweep.name, metrics, goals)
    storage = open_storage(plan.folder / "study.db", name)
    ended, unfinished = read_trials(plan.folder), read_unfinished(plan.folder)
    for record in ended:
        remove_resume_state(trial_folder(plan.folder, record.trial_id))
    if plan.num_trials is not None and plan.num_trials <= len(ended):
        return None
    starts, epochs = read_starts(plan.folder), read_all_epochs(plan.folder)
    # All that earlier drivers drew, ended or not: a sampler that begins with the same seed would draw it again.
    num_drawn = max(len(starts), _num_in_study(storage))
    relay = Relay(store, listeners, metrics, earlier=epochs)
    space = SearchSpace(sweep.parameters, exhaustive=sweep.method in EXHAUSTIVE)
    search = StudySearch(
        space,
        metrics=metrics,
        goals=goals,
        sampler=make_sampler(
            sweep.method, plan.seed + num_drawn, len(metrics), space=space, num_trials=plan.num_trials
        ),
        study_name=name,
        storage=storage,
        resolve=lambda number, params: start_of(sweep, number, params),
        announce=relay.announce,
        to_config=lambda start: spec_of(sweep, plan, start).to_config(),
        target=sweep.metric[0].target,
        study_file=plan.folder / "study.db",
        points=sweep.points_to_evaluate,
    )
    never_started = reconcile(search.study, ended, unfinished, metrics, space=space, epochs=epochs)
    search.hand_out_first(unfinished, never_started)
    maximize = goals[0] == "maximize"
    scheduler = make_scheduler(
        sweep.early_terminate, metrics[0], "max" if maximize else "min", sweep.max_epochs()
    )
    callbacks = [relay]
    if scheduler is not None:
        told = {
            trial_id: results_again(
                of_trial, metrics[0], maximize=maximize, keeps_best=_keeps_best(starts[trial_id])
            )
            for trial_id, of_trial in epochs.items()
        }
        callbacks.append(EarlierEpochs(scheduler, told, [record.trial_id for record in ended]))
    run_on_tune(
        sweep,
        plan,
        name=f"{sweep.name}-{len(ended):04d}",
        callbacks=callbacks,
        num_samples=-1 if plan.num_trials is None else plan.num_trials - len(ended),
        search=search,
        scheduler=scheduler,
        time_budget_s=plan.time_budget_s,
    )
    return None if search.reached_by is None else _trial_id(search.reached_by)


def _num_in_study(storage: optuna.storages.BaseStorage) -> int:
    studies = storage.get_all_studies()
    return sum(len(storage.get_all_trials(study._study_id, deepcopy=False)) for study in studies)


def _keeps_best(start: TrialStart) -> bool:
    return start.config.get("train", {}).get("checkpoint", TrainConfig().checkpoint) == "best"


def study_of(folder: Path) -> optuna.Study:
    """The one study in a sweep's folder."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
    (summary,) = storage.get_all_studies()
    return optuna.load_study(study_name=summary.study_name, storage=storage)


def start_of(sweep: SweepFile, number: int, params: dict[str, Any]) -> TrialStart:
    """A trial of the search. Parameters that do not go together make one that fails and says why."""
    trial_id = _trial_id(number)
    try:
        run = resolve_run_config(sweep, params)
    except InputError:
        refused = merged_sections(sweep.sections(), params)
        seed = refused.get("train", {}).get("seed", TrainConfig().seed)
        return TrialStart(trial_id, number, params, refused, config_hash="", seed=seed)
    return TrialStart(
        trial_id=trial_id,
        number=number,
        params=params,
        config=run.model_dump(mode="json", by_alias=True),
        config_hash=config_hash(run),
        seed=run.train.seed,
    )


def _trial_id(number: int) -> str:
    return f"t{number:04d}"
