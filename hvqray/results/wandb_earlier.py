"""What earlier processes of a sweep have told W&B, and what they have not: a killed one leaves runs open, and their files cut off."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hvqray.results.confirm_store import confirm_journal_path
from hvqray.results.events import TrialEnd, TrialStart
from hvqray.results.history import Metrics, apply_records
from hvqray.results.journal import Journal, read_records
from hvqray.results.stored_trials import journal_path

_LOG_HEADER_BYTES = 7
_CHUNK_HEADER = struct.Struct("<IHB")
"""Of a chunk in LevelDB's log format: checksum, length in bytes, kind."""
_LAST_CHUNKS = (1, 4)
"""Kinds of a chunk that ends its record: it is the whole of it (FULL), or the last of several (LAST)."""


@dataclass
class EarlierRun:
    """A trial or retraining run as the sweep's journals have it."""

    start: TrialStart
    epochs: dict[int, tuple[Metrics, float | None]] = field(default_factory=dict)
    """Epoch to flat metrics and to seconds since the run began, None where an older version wrote the journal."""
    end: TrialEnd | None = None


def read_earlier_runs(folder: Path, wanted: Callable[[str], bool]) -> dict[str, EarlierRun]:
    """Run id to what is on record of it, of all `wanted` trials and retraining runs of the sweep in `folder`.

    Of a run that failed and was tried again, only what came after. Raises InputError where a journal is damaged.
    """
    runs: dict[str, EarlierRun] = {}

    def apply(record: dict[str, Any]) -> None:
        if "trial_id" not in record or not wanted(record["trial_id"]):
            return
        body = {key: value for key, value in record.items() if key not in ("event", "code_version")}
        run_id = body["trial_id"]
        match record["event"]:
            case "start":
                if run_id not in runs or runs[run_id].end:
                    runs[run_id] = EarlierRun(TrialStart(**body))
            case "epoch":
                runs[run_id].epochs[body["epoch"]] = (body["metrics"], body.get("duration_s"))
            case "end":
                runs[run_id].end = TrialEnd(**body)

    for path in (journal_path(folder), confirm_journal_path(folder)):
        if path.exists():
            apply_records(path, apply)
    return runs


class FiledRuns:
    """Which runs were opened at W&B in `mode`, and which of them it has whole; on the disk at once, since a process may be killed.

    Offline files cannot say so themselves: they may be cut off, or be gone once they are synced.
    """

    def __init__(self, folder: Path, mode: Literal["online", "offline"]) -> None:
        self._path = folder / ".state" / "wandb.jsonl"
        self._mode = mode
        self._open: set[str] = set()
        self._models: dict[str, str | None] = {}
        for record in read_records(self._path) if self._path.exists() else ():
            if record["mode"] == mode:
                self._apply(record)

    def open(self, run_id: str) -> None:
        """A run is about to be opened, anew or again."""
        self._record({"event": "open", "run_id": run_id})

    def finish(self, run_id: str, model: str | None) -> None:
        """A run is over and W&B has taken all of it; `model` is the `model_digest` of what was filed in it as the best."""
        self._record({"event": "finish", "run_id": run_id, "model": model})

    def is_open(self, run_id: str) -> bool:
        """Whether it was opened, and not finished since."""
        return run_id in self._open

    def knows(self, run_id: str) -> bool:
        """Whether it was ever opened."""
        return run_id in self._open or run_id in self._models

    def is_whole(self, run_id: str) -> bool:
        return run_id in self._models

    def has_model(self, run_id: str, model: str) -> bool:
        """Whether this very model has been filed in the run."""
        return self._models.get(run_id) == model

    def _record(self, record: dict[str, Any]) -> None:
        # Not held open: the side thread that writes may be left to itself at any time.
        with closing(Journal(self._path)) as journal:
            journal.append({**record, "mode": self._mode})
        self._apply(record)

    def _apply(self, record: dict[str, Any]) -> None:
        run_id = record["run_id"]
        if record["event"] == "open":
            self._open.add(run_id)
            self._models.pop(run_id, None)
        else:
            self._open.discard(run_id)
            self._models[run_id] = record["model"]


def offline_folders(wandb_folder: Path, wandb_id: str) -> list[Path]:
    """Where earlier processes wrote the run of this id down; a folder's own name may have a number behind the id."""
    return [path.parent for path in wandb_folder.glob(f"offline-run-*/run-{wandb_id}.wandb")]


def remove_empty_logs(wandb_folder: Path) -> None:
    """Remove the folders of offline runs whose file holds no record: `wandb sync` fails on one of them, and uploads no other run either.

    W&B writes in blocks, so a process that was killed leaves such a file of each run that it had just begun. No run is lost: the sweep goes
    on with it, in a file of its own. The caller holds the sweep, and has no run open.
    """
    for log in wandb_folder.glob("offline-run-*/run-*.wandb"):
        if not _holds_a_record(log):
            shutil.rmtree(log.parent, ignore_errors=True)


def _holds_a_record(log: Path) -> bool:
    """Whether the first record is there to its end; it fills blocks of 32 KiB, so that its chunks follow each other without gaps."""
    with log.open("rb") as file:
        file.seek(_LOG_HEADER_BYTES)
        while len(header := file.read(_CHUNK_HEADER.size)) == _CHUNK_HEADER.size:
            _, length, kind = _CHUNK_HEADER.unpack(header)
            if len(file.read(length)) < length:
                return False
            if kind in _LAST_CHUNKS:
                return True
    return False
