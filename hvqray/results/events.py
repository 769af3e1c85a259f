"""What happens in a sweep, as its listeners (store, live table, W&B) hear it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from hvqray.training.epoch_report import EpochReport

TrialState = Literal["COMPLETE", "PRUNED", "FAIL"]
Goal = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class TrialStart:
    """A trial was suggested and is about to run (or to go on: then it is announced again, with the same identity)."""

    trial_id: str
    """`t0007`: unique within the sweep, stable over resumes."""
    number: int
    """Optuna's trial number."""
    params: dict[str, Any]
    """Dotted parameter name to value, only those that apply."""
    config: dict[str, Any]
    """The whole RunConfig, as JSON-able dict."""
    config_hash: str
    """Empty where the configuration was refused, so that the trial will fail."""
    seed: int
    confirms: str | None = None
    """The trial whose configuration this run retrains with another seed; None for a trial of the search."""


@dataclass(frozen=True)
class TrialEnd:
    """A trial has ended for good."""

    trial_id: str
    state: TrialState
    metrics: dict[str, float | None]
    """Flat names, as in `EpochReport.selected`: what the trial is worth."""
    epochs: int
    duration_s: float
    error: str | None = None
    """One line, for state FAIL."""
    folder: str | None = None
    """The trial's folder: `model.safetensors`, `config.yaml`, `maps/CLASS_NNN_{image,mask,map}.png`."""
    best_epoch: int | None = None
    """The epoch whose checkpoint and `metrics` these are; None where no epoch ended, or an older version recorded it."""


class SweepListener(Protocol):
    """Hears of everything, in order, on the driver. An exception in a listener must not end the sweep."""

    def on_trial_start(self, event: TrialStart) -> None: ...

    def on_epoch(self, trial_id: str, report: EpochReport) -> None: ...

    def on_trial_end(self, event: TrialEnd) -> None: ...

    def close(self) -> None:
        """The sweep is over or interrupted; flush and release everything."""
        ...
