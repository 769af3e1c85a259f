"""The journal of the confirmation runs, beside that of the search: `trials.parquet` stays a row a trial of the search."""

from __future__ import annotations

from pathlib import Path

from hvqray.results.events import TrialEnd, TrialStart
from hvqray.results.history import (
    Epochs,
    History,
    TrialRecord,
    end_record,
    epoch_record,
    replay,
    start_record,
)
from hvqray.results.journal import Journal
from hvqray.training.epoch_report import EpochReport


class ConfirmStore:
    """The listener that keeps the retraining runs of a sweep in `folder`/.state; the sweep's store holds the lock."""

    def __init__(self, folder: Path, *, code_version: str) -> None:
        self._journal = Journal(confirm_journal_path(folder))
        self._code_version = code_version

    def on_trial_start(self, event: TrialStart) -> None:
        self._journal.append(start_record(event, code_version=self._code_version))

    def on_epoch(self, trial_id: str, report: EpochReport) -> None:
        self._journal.append(epoch_record(trial_id, report))

    def on_trial_end(self, event: TrialEnd) -> None:
        self._journal.append(end_record(event))

    def close(self) -> None:
        self._journal.close()


def read_confirm_runs(folder: Path) -> dict[str, TrialRecord]:
    """Run id to record, of every retraining run that has ended; empty where there is none."""
    return {run.trial_id: run for run in _history(folder).trials()}


def read_confirm_starts(folder: Path) -> dict[str, TrialStart]:
    """Run id to what it was started with, of every retraining run; empty where there is none."""
    return _history(folder).starts


def read_confirm_epochs(folder: Path) -> dict[str, Epochs]:
    """Run id to epoch to flat metrics, of every retraining run that ever reported."""
    return _history(folder).epochs


def _history(folder: Path) -> History:
    return replay(confirm_journal_path(folder)) if confirm_journal_path(folder).exists() else History()


def confirm_journal_path(folder: Path) -> Path:
    """Where the journal of a sweep's retraining runs lies, if there are any."""
    return folder / ".state" / "confirm.jsonl"
