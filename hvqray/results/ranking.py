"""Which trial is better; a search for several metrics is ordered by its first one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hvqray.results.events import Goal
from hvqray.results.history import TrialRecord


def is_better(value: float | None, than: float | None, goal: Goal) -> bool:
    """Whether `value` is strictly better; anything is better than None."""
    if value is None or than is None:
        return value is not None
    return value > than if goal == "maximize" else value < than


def ranked(trials: Iterable[TrialRecord], goals: Mapping[str, Goal]) -> list[TrialRecord]:
    """Best first by the first goal: complete trials, then pruned ones (worth what they had reached), then failed ones."""
    name, goal = next(iter(goals.items()))
    states = ("COMPLETE", "PRUNED", "FAIL")

    def key(trial: TrialRecord) -> tuple[int, bool, float, int]:
        value = trial.metrics.get(name)
        signed = 0.0 if value is None else -value if goal == "maximize" else value
        return states.index(trial.state), value is None, signed, trial.number

    return sorted(trials, key=key)
