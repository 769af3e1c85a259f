"""What trials of an earlier driver reached, told to a new scheduler, whose rungs would start empty otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler

from hvqray.results.history import Epochs
from hvqray.training.selection import Selection
from hvqray.tuning.schedulers import TIME_ATTRIBUTE
from hvqray.tuning.study_search import finite_value
from hvqray.tuning.trial import WORTH_KEY, TrialSpec

Worths = dict[int, float | None]
"""Epoch to worth."""


@dataclass(frozen=True)
class _EndedTrial:
    """Stands for a trial that is over; schedulers tell trials apart by their id."""

    trial_id: str


def worths(epochs: Epochs, metric: str, *, maximize: bool, keeps_best: bool) -> Worths:
    """What a trial was worth after each of its epochs, None where `metric` was not measured.

    That is the best value so far where the trial's best epoch is kept, else the epoch's own.
    """
    selection, found, worth = Selection(metric, maximize), {}, None
    for epoch, metrics in sorted(epochs.items()):
        value = finite_value(metrics, metric)
        if selection.is_better(value, worth if keeps_best else None):
            worth = value
        found[epoch] = None if value is None else worth
    return found


class EarlierEpochs(tune.Callback):
    """Tells `scheduler` at once of the trials that have ended, and of one that goes on when it starts.

    `worths` has for every trial that ever reported, by its id, what :func:`worths` makes of its epochs. Tune makes a new id for a trial that
    goes on, so its epochs can be told only once it is there.
    """

    def __init__(self, scheduler: TrialScheduler, worths: Mapping[str, Worths], ended: Sequence[str]) -> None:
        self._scheduler, self._worths = scheduler, dict(worths)
        for trial_id in ended:
            self._tell(_EndedTrial(trial_id), self._reports(trial_id))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        reports = self._reports(TrialSpec.from_config(trial.config).trial_id)
        if reports:
            self._tell(trial, reports[:-1])  # it tells its last epoch again itself
            self._scheduler.on_trial_add(None, trial)

    def _reports(self, trial_id: str) -> list[tuple[int, float | None]]:
        """A trial's epochs in order; empty where they have been told."""
        return sorted(self._worths.pop(trial_id, {}).items())

    def _tell(self, trial: Any, reports: Sequence[tuple[int, float | None]]) -> None:
        for epoch, worth in reports:
            if worth is not None:
                # Each as the result of a trial that ends there: it counts, and nothing is decided a second time.
                self._scheduler.on_trial_add(None, trial)
                self._scheduler.on_trial_complete(None, trial, {TIME_ATTRIBUTE: epoch, WORTH_KEY: worth})
