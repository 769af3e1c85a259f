"""Which Ray Tune scheduler a sweep's `early_terminate` means."""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler

from hvqray.config.search_sections import EarlyTerminate, Hyperband
from hvqray.errors import InputError
from hvqray.tuning.trial import WORTH_KEY

TIME_ATTRIBUTE = "epoch"
"""Reports count their own epochs: Ray's `training_iteration` starts at 1 again when a trial is restarted."""


def make_scheduler(
    early_terminate: EarlyTerminate | None, metric: str, mode: str, max_epochs: int
) -> TrialScheduler | None:
    """The scheduler that stops hopeless trials: None where no trial is to be stopped.

    Args:
        early_terminate: the sweep file's rule.
        metric: name of the reported metric that trials are ranked by: at rungs by what a trial is worth so far, under the median
            rule, which knows of each trial's best epoch itself, by every epoch's own value.
        mode: `max` or `min`.
        max_epochs: epochs of the longest trial.

    Raises:
        InputError: the rule's first rung does not lie before the last epoch, so that it could stop nothing.
    """
    if early_terminate is None:
        return None
    if early_terminate.first_rung() >= max_epochs:
        message = f"no trial can be stopped before epoch {early_terminate.first_rung()}, but trials have {max_epochs}"
        raise InputError(
            f"{message} epochs; lower min_iter or remove early_terminate", field="early_terminate"
        )
    if isinstance(early_terminate, Hyperband):
        return ASHAScheduler(
            time_attr=TIME_ATTRIBUTE,
            metric=WORTH_KEY,
            mode=mode,
            grace_period=early_terminate.first_rung(),
            # Ray counts the rungs by logarithms, whose rounding would lose the last one (243 of 1, 3, ..., 243).
            max_t=early_terminate.last_rung(max_epochs) * (1 + 1e-9),
            reduction_factor=early_terminate.eta,
            brackets=1,
            stop_last_trials=False,  # a trial ends by its own number of epochs
        )
    return _MedianRule(
        time_attr=TIME_ATTRIBUTE,
        metric=metric,
        mode=mode,
        grace_period=early_terminate.min_iter,
        # Else it pauses every trial to let the others catch up, while too few have finished for a median.
        min_time_slice=float("inf"),
    )


class _MedianRule(MedianStoppingRule):
    """Passes over the ends of trials that failed, or whose last epoch was not measured: Ray's own looks for their metric later, and breaks."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if result.keys() >= {self._time_attr, self._metric}:
            super().on_trial_complete(tune_controller, trial, result)
