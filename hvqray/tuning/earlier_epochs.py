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


@dataclass(frozen=True)
class _EndedTrial:
    """Stands for a trial that is over; schedulers tell trials apart by their id."""

    trial_id: str


def results_again(epochs: Epochs, metric: str, *, maximize: bool, keeps_best: bool) -> list[dict[str, Any]]:
    """What a trial told Tune after each of its epochs, as far as schedulers look at it.

    It was worth the best value so far where its best epoch is kept, else the epoch's own.
    """
    selection, results, worth = Selection(metric, maximize), [], None
    for epoch, metrics in sorted(epochs.items()):
        value = finite_value(metrics, metric)
        if selection.is_better(value, worth if keeps_best else None):
            worth = value
        measured = {} if value is None else {metric: value, WORTH_KEY: worth}
        results.append({TIME_ATTRIBUTE: epoch, **measured})
    return results


class EarlierEpochs(tune.Callback):
    """Tells `scheduler` at once of the trials that have ended, and of one that goes on when it starts.

    `results` has for every trial that ever reported, by its id, its `results_again`. Tune makes a new id for a trial that goes on, so its epochs
    can be told only once it is there.
    """

    def __init__(
        self,
        scheduler: TrialScheduler,
        results: Mapping[str, Sequence[dict[str, Any]]],
        ended: Sequence[str],
    ) -> None:
        self._scheduler, self._results = scheduler, dict(results)
        for trial_id in ended:
            self._tell(_EndedTrial(trial_id), self._results.pop(trial_id, ()))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        results = self._results.pop(TrialSpec.from_config(trial.config).trial_id, ())
        if results:
            self._tell(trial, results[:-1])  # it tells its last epoch again itself
            self._scheduler.on_trial_add(None, trial)

    def _tell(self, trial: Any, results: Sequence[dict[str, Any]]) -> None:
        for result in results:
            if WORTH_KEY in result:
                # Each as the result of a trial that ends there: it counts, and nothing is decided a second time.
                self._scheduler.on_trial_add(None, trial)
                self._scheduler.on_trial_complete(None, trial, result)
