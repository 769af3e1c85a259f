"""Optuna as Ray Tune's search algorithm, with every trial's end told to the study as what it is.

Tune's own `OptunaSearch` tells stopped trials COMPLETE with their partial value, leaves a trial whose objective is NaN
RUNNING for ever, and ends the whole search where the objective is missing. Here a stopped trial is PRUNED, and a trial
without a finite objective is FAIL. Interrupted trials of an earlier driver are handed out again before new ones.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from hvqray.atomic import flush_to_disk
from hvqray.results.events import TrialStart
from hvqray.tuning.space import SearchSpace
from hvqray.tuning.trial import FULL_DISK_KEY, report_of


class StudySearch(OptunaSearch):
    """Asks the study for parameters and tells it results, under the trial ids of this project.

    Args:
        space: What is searched.
        metrics: Objective names; several make the search multi-objective.
        goals: `maximize` or `minimize`, as many as metrics.
        resolve: Makes a `TrialStart` of a trial number and its parameters.
        announce: Hears of every trial that is handed out.
        to_config: Makes Tune's config of a `TrialStart`.
        target: Value of a single objective that is good enough: no more trials are handed out while one is there, nor ever once
            it has ended there.
        study_file: The storage's file, which is brought to the disk whenever a trial has ended.
        points: Values of parameters that are tried before anything is suggested; what a point leaves out is suggested.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        metrics: Sequence[str],
        goals: Sequence[str],
        sampler: optuna.samplers.BaseSampler,
        study_name: str,
        storage: optuna.storages.BaseStorage,
        resolve: Callable[[int, dict[str, Any]], TrialStart],
        announce: Callable[[TrialStart], None],
        to_config: Callable[[TrialStart], dict[str, str]],
        target: float | None = None,
        study_file: Path | None = None,
        points: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        modes = ["max" if goal == "maximize" else "min" for goal in goals]
        single = len(metrics) == 1
        super().__init__(
            space=space,
            metric=metrics[0] if single else list(metrics),
            mode=modes[0] if single else modes,
            sampler=sampler,
            study_name=study_name,
            storage=storage,
        )
        self._metrics = list(metrics)
        self._resolve, self._announce, self._to_config = resolve, announce, to_config
        self._told_before: set[int] = set()
        self._told_epochs: dict[str, set[int]] = {}
        self._study_file = study_file
        self._target, self._maximize = target, goals[0] == "maximize"
        self._reached_by: int | None = None
        self._at_target: set[int] = set()
        self._interrupted: list[TrialStart] = []
        self._never_started: list[int] = []
        self._points = [space.fixed(point) for point in points]

    @property
    def study(self) -> optuna.Study:
        """The study behind the search."""
        return self._ot_study

    def hand_out_first(self, interrupted: Sequence[TrialStart], never_started: Sequence[int] = ()) -> None:
        """What an earlier driver left: trials that did not end, and numbers of those only asked for, before anything new."""
        self._interrupted, self._never_started = list(interrupted), list(never_started)
        # Only now is the study brought up to the journal.
        trials = self.study.get_trials(deepcopy=False)
        self._points = [point for point in self._points if not any(_has(trial, point) for trial in trials)]
        going_on = {start.number for start in interrupted}
        for trial in trials:
            if trial.number not in going_on and trial.state is TrialState.COMPLETE:
                self._note_end(trial.number, trial.state, trial.values)

    @property
    def reached_by(self) -> int | None:
        """The number of the trial that ended at the target, and with it the search."""
        return self._reached_by

    def _note_end(self, number: int, state: TrialState, values: Sequence[float] | None) -> None:
        """A trial that failed, or was stopped, at the target leaves no model that is there: the search goes on."""
        self._at_target.discard(number)
        if (
            self._reached_by is None
            and state is TrialState.COMPLETE
            and values
            and self._reaches_target(values[0])
        ):
            self._reached_by = number

    def _reaches_target(self, value: float | None) -> bool:
        if value is None or self._target is None:
            return False
        return value >= self._target if self._maximize else value <= self._target

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        epochs: set[int] = set()
        if self._interrupted:
            start = self._interrupted.pop(0)
            trial = self._again(start.number)
            before = _frozen(self.study, start.number)
            epochs.update(before.intermediate_values)
            if any(map(self._reaches_target, before.intermediate_values.values())):
                self._at_target.add(start.number)
            if before.state.is_finished():
                # The driver died between telling the study and telling the journal.
                self._told_before.add(start.number)
        else:
            if self._reached_by is not None:  # the trials that run go on to their end
                return Searcher.FINISHED
            if self._at_target:  # asked again when a trial has ended
                return None
            # A trial asked for before keeps the parameters that it was given, and is given those still missing.
            if self._never_started:
                number = self._never_started.pop(0)
                trial = self._again(number)
                epochs.update(_frozen(self.study, number).intermediate_values)
            else:
                trial = self._ask()
            self._space(trial)
            start = self._resolve(trial.number, self._space.params(trial))
        self._ot_trials[trial_id] = trial
        self._told_epochs[trial_id] = epochs
        self._announce(start)
        return self._to_config(start)

    def _ask(self) -> optuna.Trial:
        if self._points:
            self.study.enqueue_trial(self._points.pop(0))
        return self.study.ask()

    def _again(self, number: int) -> optuna.Trial:
        return optuna.trial.Trial(self.study, _frozen(self.study, number)._trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        value = result.get(self._metrics[0])
        trial = self._ot_trials[trial_id]
        if self._reaches_target(value):
            self._at_target.add(trial.number)
        told = trial.number in self._told_before
        if len(self._metrics) > 1 or told or value is None or not math.isfinite(value):
            return
        # A trial that goes on may tell its last epoch again, of which Optuna would warn.
        epochs = self._told_epochs[trial_id]
        if result["epoch"] not in epochs:
            trial.report(value, result["epoch"])
            epochs.add(result["epoch"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if trial_id in self._completed_trials:
            return
        if FULL_DISK_KEY not in (result or {}):  # there it has not ended
            self._tell_end(trial_id, result, error=error)
        self._completed_trials.add(trial_id)  # not before: what fails is told again

    def _tell_end(self, trial_id: str, result: dict[str, Any] | None, *, error: bool) -> None:
        if result is not None and not error:  # Tune tells a trial's last result here alone
            self.on_trial_result(trial_id, result)
        state, values = outcome(result, self._metrics, crashed=error)
        number = self._ot_trials[trial_id].number
        self._note_end(number, state, values)  # of its best epoch, which an earlier driver may have seen
        tell(self.study, number, state, values)
        if self._study_file is not None:
            with contextlib.suppress(OSError):  # the journal has it, too, and a resumed sweep goes by that
                flush_to_disk(self._study_file)

    def save(self, checkpoint_path: str) -> None:
        """The study lies in its database; Tune's snapshots need no copy of it."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep is resumed from its study and journal, not from Tune's snapshots")


def outcome(
    result: dict[str, Any] | None, metrics: Sequence[str], *, crashed: bool = False
) -> tuple[TrialState, list[float] | None]:
    """What a trial's last Tune result makes it: its state, and its objective values unless it failed."""
    report = report_of(result)
    if crashed or report is None:
        return TrialState.FAIL, None
    values = [value for metric in metrics if (value := finite_value(report.selected, metric)) is not None]
    if len(values) < len(metrics):
        return TrialState.FAIL, None
    return (TrialState.COMPLETE if report.is_last else TrialState.PRUNED), values


def finite_value(metrics: Mapping[str, float | None], metric: str) -> float | None:
    """The metric's value where it is one that a study takes."""
    value = metrics.get(metric)
    return value if value is not None and math.isfinite(value) else None


def tell(study: optuna.Study, number: int, state: TrialState, values: list[float] | None) -> None:
    """Tell the study, unless it knows already. A pruned trial keeps its last intermediate value as its value."""
    if _frozen(study, number).state.is_finished():
        return
    study.tell(number, values if state is TrialState.COMPLETE else None, state=state)


def _has(trial: optuna.trial.FrozenTrial, point: Mapping[str, Any]) -> bool:
    """Whether a trial was given the values of a point, or has them."""
    return point.items() <= {**trial.system_attrs.get("fixed_params", {}), **trial.params}.items()


def _frozen(study: optuna.Study, number: int) -> optuna.trial.FrozenTrial:
    return study.get_trials(deepcopy=False)[number]
