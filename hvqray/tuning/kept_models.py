"""Which trials keep their weights: a sweep of a hundred trials would fill a disk with models that nobody asks for."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hvqray.results.events import Goal, TrialEnd, TrialStart
from hvqray.results.history import TrialRecord
from hvqray.training.anomaly_images import EXAMPLES
from hvqray.training.checkpoint import MODEL_FILE, trial_folder
from hvqray.training.epoch_report import EpochReport

NUM_KEPT = 5
"""Complete trials, the best by the first metric, whose weights stay. `hvqray.train --trial` makes any other's again."""


class KeptModels:
    """Hears of trials' ends, and removes the weights of all but the best; fulfils `SweepListener`.

    Args:
        folder: The sweep's folder.
        goals: Metric to goal; the first one counts.
        earlier: Trials of earlier drivers.
    """

    def __init__(self, folder: Path, goals: Mapping[str, Goal], earlier: Sequence[TrialRecord]) -> None:
        self._folder = folder
        self._metric, self._goal = next(iter(goals.items()))
        self._best: list[tuple[float, int, str]] = []
        for record in earlier:
            self._judge(record.trial_id, record.state, record.metrics.get(self._metric))

    def on_trial_start(self, event: TrialStart) -> None: ...

    def on_epoch(self, trial_id: str, report: EpochReport) -> None: ...

    def on_trial_end(self, event: TrialEnd) -> None:
        self._judge(event.trial_id, event.state, event.metrics.get(self._metric))

    def close(self) -> None: ...

    def _judge(self, trial_id: str, state: str, value: float | None) -> None:
        if state != "COMPLETE" or value is None:
            self._remove(trial_id)
            return
        # Equals in the order of their numbers, as `results.ranking` has them, not in that of their ends.
        signed = -value if self._goal == "maximize" else value
        self._best = sorted([*self._best, (signed, int(trial_id.removeprefix("t")), trial_id)])
        for _, _, beaten in self._best[NUM_KEPT:]:
            self._remove(beaten)
        del self._best[NUM_KEPT:]

    def _remove(self, trial_id: str) -> None:
        (trial_folder(self._folder, trial_id) / MODEL_FILE).unlink(missing_ok=True)


def remove_maps_without_models(folder: Path, trials: Iterable[TrialRecord]) -> None:
    """Remove the example maps of ended trials whose weights are gone; when W&B, which reads them behind the search, has ended too."""
    for trial in trials:
        path = trial_folder(folder, trial.trial_id)
        if not (path / MODEL_FILE).exists():
            shutil.rmtree(path / EXAMPLES, ignore_errors=True)
