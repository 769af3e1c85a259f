"""What trials of an earlier driver reached, told to a new scheduler, whose rungs would start empty otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler

from hvqray.results.history import Epochs, Metrics
from hvqray.tuning.schedulers import TIME_ATTRIBUTE
from hvqray.tuning.trial import TrialSpec


@dataclass(frozen=True)
class _EndedTrial:
    """Stands for a trial that is over; schedulers tell trials apart by their id."""

    trial_id: str


class EarlierEpochs(tune.Callback):
    """Tells `scheduler` at once of the trials that have ended, and of one that goes on when it starts.

    Tune makes a new id for a trial that goes on, so its epochs can be told only once it is there.
    """

    def __init__(
        self, scheduler: TrialScheduler, metric: str, epochs: Mapping[str, Epochs], ended: Sequence[str]
    ) -> None:
        self._scheduler, self._metric, self._epochs = scheduler, metric, dict(epochs)
        for trial_id in ended:
            self._tell(_EndedTrial(trial_id), self._reports(trial_id))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        reports = self._reports(TrialSpec.from_config(trial.config).trial_id)
        if reports:
            self._tell(trial, reports[:-1])  # it tells its last epoch again itself
            self._scheduler.on_trial_add(None, trial)

    def _reports(self, trial_id: str) -> list[tuple[int, Metrics]]:
        """A trial's epochs in order; empty where they have been told."""
        return sorted(self._epochs.pop(trial_id, {}).items())

    def _tell(self, trial: Any, reports: Sequence[tuple[int, Metrics]]) -> None:
        for epoch, metrics in reports:
            value = metrics.get(self._metric)
            if value is not None and math.isfinite(value):
                # Each as the result of a trial that ends there: it counts, and nothing is decided a second time.
                self._scheduler.on_trial_add(None, trial)
                self._scheduler.on_trial_complete(None, trial, {TIME_ATTRIBUTE: epoch, self._metric: value})
