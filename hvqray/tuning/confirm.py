"""Confirmation: the best configurations of a search, retrained over seeds and measured on `test`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune

from hvqray.config.run_config import config_hash
from hvqray.config.sections import ConfirmConfig, RunConfig
from hvqray.config.sweep_file import SweepFile
from hvqray.results.confirm_store import ConfirmStore, read_confirm_epochs, read_confirm_runs
from hvqray.results.confirmation import ConfirmedConfiguration
from hvqray.results.events import Goal, SweepListener, TrialStart
from hvqray.results.history import TrialRecord
from hvqray.results.stored_trials import read_starts
from hvqray.training.checkpoint import METRICS_FILE, remove_resume_state, trial_folder
from hvqray.training.measure import read_test_scores
from hvqray.tuning.best import best_trials
from hvqray.tuning.confirm_stats import differences, spreads
from hvqray.tuning.measured import measured_folder, scores_of_runs
from hvqray.tuning.relay import Relay
from hvqray.tuning.trial import TrialSpec
from hvqray.tuning.tune_run import SearchPlan, run_on_tune, spec_of


def configurations_to_confirm(
    folder: Path, trials: Sequence[TrialRecord], goals: Mapping[str, Goal], config: ConfirmConfig
) -> dict[str, list[TrialStart]]:
    """Trial id of the `top_k` best configurations, the best first, to the retraining runs, `t0004-s1` for seed 1.

    Trials that differ by their seed alone are one configuration.
    """
    starts = read_starts(folder)
    found: dict[str, list[TrialStart]] = {}
    taken: set[str] = set()
    for trial in best_trials(trials, goals, len(trials)):
        runs = runs_over_seeds(starts[trial.trial_id], config.seeds)
        if len(found) < config.top_k and runs[0].config_hash not in taken:
            found[trial.trial_id] = runs
            taken.add(runs[0].config_hash)
    return found


def runs_over_seeds(start: TrialStart, seeds: Sequence[int]) -> list[TrialStart]:
    """The retraining runs of one trial, a run a seed."""
    return [_with_seed(start, seed) for seed in seeds]


def run_confirmation(
    sweep: SweepFile,
    plan: SearchPlan,
    starts: Sequence[TrialStart],
    store: ConfirmStore,
    listeners: Sequence[SweepListener],
) -> None:
    """Train the runs that an earlier driver has not, as trials are trained; an interrupted one goes on from its checkpoint.

    One that failed is tried again: its configuration has been trained to the end before, so what ended it may well be gone.
    """
    ended = read_confirm_runs(plan.folder)
    failed = {run_id for run_id, run in ended.items() if run.state == "FAIL"}
    for run_id in ended:
        remove_resume_state(trial_folder(plan.folder, run_id))
    to_run = {
        start.trial_id: start for start in starts if start.trial_id not in ended or start.trial_id in failed
    }
    if not to_run:
        return
    metrics = [metric.name for metric in sweep.metric]
    epochs = {
        run_id: each for run_id, each in read_confirm_epochs(plan.folder).items() if run_id not in failed
    }
    relay = Relay(store, listeners, metrics, earlier=epochs)
    configs = [spec_of(sweep, plan, start).to_config()["spec"] for start in to_run.values()]
    run_on_tune(
        sweep,
        plan,
        name=f"{sweep.name}-confirm-{len(ended):04d}",
        callbacks=[_Announcer(relay, to_run), relay],
        num_samples=1,
        config={"spec": tune.grid_search(configs)},
    )


def completed_runs(folder: Path, runs: Sequence[TrialStart]) -> list[str]:
    """The ids of those that were trained to the end."""
    ended = read_confirm_runs(folder)
    return [run.trial_id for run in runs if run.trial_id in ended and ended[run.trial_id].state == "COMPLETE"]


def confirmed_configuration(
    folder: Path, trial_id: str, runs: Sequence[TrialStart]
) -> ConfirmedConfiguration:
    """What came out of one configuration's runs, once the completed ones are measured."""
    ended = read_confirm_runs(folder)
    run_ids = completed_runs(folder, runs)
    measured = [measured_folder(folder, run_id) for run_id in run_ids]
    metrics = [json.loads((path / METRICS_FILE).read_text(encoding="utf-8"))["metrics"] for path in measured]
    return ConfirmedConfiguration(
        trial_id=trial_id,
        seeds=[ended[run_id].seed for run_id in run_ids],
        run_ids=run_ids,
        metrics=spreads(metrics, [read_test_scores(path) for path in measured]) if run_ids else {},
        failed={
            run.trial_id: ended[run.trial_id].error or "stopped"
            for run in runs
            if run.trial_id in ended and run.trial_id not in run_ids
        },
    )


def held_against_best(
    folder: Path, confirmed: Sequence[ConfirmedConfiguration], best_trial_id: str
) -> list[ConfirmedConfiguration]:
    """The same with the intervals of what the best configuration has more than each of the others on `test`.

    A configuration has none where its runs, or the best one's, were measured on other images or are gone.
    """
    scores = {each.trial_id: scores_of_runs(folder, each.run_ids) for each in confirmed}
    best = scores[best_trial_id]
    held = []
    for each in confirmed:
        others = scores[each.trial_id]
        if best and others and each.trial_id != best_trial_id:
            with suppress(ValueError):  # of other images: the dataset has changed between the runs
                each = replace(each, more=differences(best, others))
        held.append(each)
    return held


class _Announcer(tune.Callback):
    """Tells the listeners of a run when it starts for the first time."""

    def __init__(self, relay: Relay, starts: dict[str, TrialStart]) -> None:
        self._relay, self._starts = relay, dict(starts)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        start = self._starts.pop(TrialSpec.from_config(trial.config).trial_id, None)
        if start is not None:
            self._relay.announce(start)


def _with_seed(start: TrialStart, seed: int) -> TrialStart:
    config = {**start.config, "train": {**start.config["train"], "seed": seed}}
    return TrialStart(
        trial_id=f"{start.trial_id}-s{seed}",
        number=start.number,
        params={**start.params, "train.seed": seed},
        config=config,
        config_hash=config_hash(RunConfig.model_validate(config)),
        seed=seed,
        confirms=start.trial_id,
    )
