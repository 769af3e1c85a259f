"""What a sweep's folder says of its trials, and whether it holds a sweep at all."""

from __future__ import annotations

from pathlib import Path

from hvqray.errors import InputError
from hvqray.results.events import TrialStart
from hvqray.results.history import Epochs, SweepInfo, TrialRecord, replay
from hvqray.results.tables import read_epochs_table, read_trials_table


def is_begun(folder: Path) -> bool:
    """Whether an earlier start has begun a sweep there: its journal has a first record, and not only the beginning of one."""
    try:
        with journal_path(folder).open("rb") as journal:
            return journal.readline().endswith(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return False


def class_sweep_folders(folder: Path) -> list[Path]:
    """The sweeps of one class each that lie in a folder which is no sweep's own; none elsewhere."""
    if (folder / "sweep.yaml").exists():
        return []
    return sorted(path.parent for path in folder.glob("*/sweep.yaml"))


def check_folder(folder: Path, *, resume: bool) -> None:
    """A new sweep finds no other one in its folder, a resumed one finds one; raises InputError where that is not so."""
    begun = is_begun(folder)
    if resume and not begun:
        raise InputError("holds no sweep to resume; leave out --resume to start it", source=str(folder))
    if begun and not resume:
        raise InputError(
            "already holds a sweep; add --resume to go on with it, or choose another name with --set name=NAME",
            source=str(folder),
        )


def journal_path(folder: Path) -> Path:
    """Where a sweep's journal lies."""
    return folder / ".state" / "journal.jsonl"


def read_info(folder: Path) -> SweepInfo:
    """Which sweep the folder holds. Raises InputError where it holds none."""
    if not journal_path(folder).exists():
        return read_trials_table(_existing(folder, "trials.parquet"))[1]
    info = replay(journal_path(folder), epochs=False).info
    if info is None:
        raise InputError("is empty: the sweep never began", source=str(journal_path(folder)))
    return info


def read_trials(folder: Path) -> list[TrialRecord]:
    """The trials that have ended, by number; from the journal, or from `trials.parquet` where `.state` was deleted.

    Raises InputError where the folder holds neither.
    """
    if journal_path(folder).exists():
        return replay(journal_path(folder), epochs=False).trials()
    return read_trials_table(_existing(folder, "trials.parquet"))[0]


def read_unfinished(folder: Path) -> list[TrialStart]:
    """The trials that were started and have not ended, by number: what a resumed sweep has to run."""
    return replay(_existing(folder, ".state/journal.jsonl"), epochs=False).unfinished()


def read_starts(folder: Path) -> dict[str, TrialStart]:
    """Trial id to what every trial was started with. Raises InputError where `.state` was deleted."""
    return replay(_existing(folder, ".state/journal.jsonl"), epochs=False).starts


def read_all_epochs(folder: Path) -> dict[str, Epochs]:
    """Trial id to epoch to flat metrics, of every trial that ever reported, in the order of their first reports."""
    if journal_path(folder).exists():
        return replay(journal_path(folder)).epochs
    return read_epochs_table(_existing(folder, "metrics.parquet"))


def read_epochs(folder: Path, trial_id: str) -> Epochs:
    """Epoch to flat metrics of one trial, empty where it never reported."""
    return read_all_epochs(folder).get(trial_id, {})


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        raise InputError(f"{name} is missing: not a sweep's folder (OUT/NAME)", source=str(folder))
    return path
