"""Passes what Ray Tune's callbacks hear on to the sweep's listeners; a fault in one listener harms neither sweep nor others."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from ray import tune

from hvqray.full_disk import refused_by_disk
from hvqray.results.events import SweepListener, TrialEnd, TrialStart
from hvqray.results.history import Epochs
from hvqray.steady_stderr import say_on_stderr
from hvqray.training.checkpoint import remove_resume_state
from hvqray.training.epoch_report import EpochReport
from hvqray.tuning.study_search import outcome
from hvqray.tuning.trial import ERROR_KEY, FULL_DISK_KEY, TrialSpec, report_of

_OUT_OF_MEMORY = re.compile(r"running low on memory\. Memory on the node .* was (\S+) used / (\S+) limit")
"""What Ray says of a process that it has ended so that its node does not run out of memory, some forty lines."""


class Relay(tune.Callback):
    """Tune's view of the listeners. The first listener is the store: its faults do end the sweep, since results would be lost; so does a
    disk that takes no more, the trials' or the store's, on which every trial would fail.

    `earlier` holds what trials reported to an earlier driver, by trial id.
    """

    def __init__(
        self,
        store: SweepListener,
        others: Sequence[SweepListener],
        metrics: Sequence[str],
        *,
        earlier: Mapping[str, Epochs],
    ) -> None:
        self._store, self._others, self._metrics = store, list(others), list(metrics)
        self._epochs_before = {trial_id: max(epochs) for trial_id, epochs in earlier.items() if epochs}
        self._broken: set[int] = set()
        self._refused: tuple[int, str | None] | None = None
        self._last_reports: dict[str, EpochReport] = {}

    def announce(self, event: TrialStart) -> None:
        """A trial was handed out."""
        self._tell("on_trial_start", event)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        report = report_of(result)
        if report is not None:
            trial_id = TrialSpec.from_config(trial.config).trial_id
            self._last_reports[trial_id] = report
            if report.note:
                say_on_stderr(f"hvqray: {trial_id} {report.note}")
            self._tell("on_epoch", trial_id, report)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if (refused := (trial.last_result or {}).get(FULL_DISK_KEY)) is not None:
            self._refused = json.loads(refused)
        else:
            self._end(trial, crashed=False)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Here what is raised ends the sweep; where Tune tells of a trial it would be that trial's failure.

        Of no trial it is the end: `--resume` goes on with all that run once there is room.
        """
        if self._refused is not None:
            number, place = self._refused
            raise OSError(number, os.strerror(number), place)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        trial_id = TrialSpec.from_config(trial.config).trial_id
        say_on_stderr(f"hvqray: {trial_id} starts again from its last checkpoint: {_crash(trial)}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial, crashed=True)

    def _end(self, trial: Any, *, crashed: bool) -> None:
        spec = TrialSpec.from_config(trial.config)
        result = trial.last_result or {}
        report = self._last_reports.pop(spec.trial_id, None)
        before = self._epochs_before.get(spec.trial_id, 0)
        state, _ = outcome(result, self._metrics, crashed=crashed)
        end = TrialEnd(
            trial_id=spec.trial_id,
            state=state.name,
            metrics=report.selected if report else {},
            epochs=report.epoch if report else before,
            duration_s=report.duration_s if report else 0.0,
            error=_why(trial, result, report, self._metrics, crashed=crashed, before=before)
            if state is TrialState.FAIL
            else None,
            folder=spec.folder,
            best_epoch=report.best_epoch if report else None,
        )
        self._tell("on_trial_end", end)
        # Only now: until the end is on record, the trial may have to go on.
        if self._refused is None:
            remove_resume_state(Path(spec.folder))

    def _tell(self, method: str, *arguments: Any) -> None:
        if self._refused is not None:
            return
        try:
            getattr(self._store, method)(*arguments)
        except Exception as error:
            if (refused := refused_by_disk(error)) is None:
                raise
            self._refused = refused
            return
        for listener in self._others:
            if id(listener) in self._broken:
                continue
            try:
                getattr(listener, method)(*arguments)
            except Exception as error:
                self._broken.add(id(listener))
                say_on_stderr(f"hvqray: {type(listener).__name__} failed and is switched off: {error}")


def _why(
    trial: Any,
    result: dict[str, Any],
    report: EpochReport | None,
    metrics: Sequence[str],
    *,
    crashed: bool,
    before: int,
) -> str:
    if result.get(ERROR_KEY):
        return result[ERROR_KEY]
    if crashed:
        return _crash(trial)
    if report is None:
        return f"stopped before its {'next' if before else 'first'} epoch ended"
    return f"no finite {' / '.join(metrics)} after epoch {report.epoch}"


def _crash(trial: Any) -> str:
    """What ended a trial's process, in a line, as far as Tune has written it down."""
    if found := _OUT_OF_MEMORY.search(_latest_failure(trial)):
        return (
            f"its node ran out of memory ({found[1]} of {found[2]} in use), so Ray ended its process;"
            " lower resources.max_concurrent_trials"
        )
    lines = [line.strip() for line in str(trial.get_error() or "").splitlines() if line.strip()]
    return lines[-1][:500] if lines else "its process died"


def _latest_failure(trial: Any) -> str:
    """The last part of Tune's own file, on this machine; what `get_error` reads is a copy, which is made later."""
    with contextlib.suppress(OSError):
        if trial.error_file:
            return re.split(r"^Failure # ", Path(trial.error_file).read_text(), flags=re.MULTILINE)[-1]
    return ""
