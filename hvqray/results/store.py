"""A sweep's folder: a journal that loses nothing, and the Parquet files that are derived from it.

Every event is appended to the journal and on the disk before the next one is heard. The Parquet files follow within
about a second, written by a thread of their own, so that no trial waits for them; they are whole at any moment.
"""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from hvqray import environment
from hvqray.atomic import remove_unfinished, write_atomically
from hvqray.errors import InputError
from hvqray.results.events import TrialEnd, TrialStart
from hvqray.results.history import (
    DataRecord,
    Epochs,
    History,
    Metrics,
    SweepInfo,
    end_record,
    epoch_record,
    opened_record,
    replay,
    start_record,
)
from hvqray.results.journal import Journal
from hvqray.results.stored_trials import check_folder, is_begun, journal_path
from hvqray.results.tables import concatenate_epochs, epoch_table, epochs_of, trials_table, write_table
from hvqray.training.epoch_report import EpochReport

_WRITTEN_HERE_ALONE = ("sweep.yaml", "trials.parquet", "metrics.parquet")
_MIN_INTERVAL_S = 1.0
_MAX_SHARE_OF_TIME = 0.05


@contextmanager
def hold_sweep(folder: Path) -> Iterator[None]:
    """Holds the lock of whoever changes what is in a sweep's folder. Raises InputError where another process has it."""
    lock = FileLock(journal_path(folder).with_name("lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(
            "another process is running this sweep; wait until it ends", source=str(folder)
        ) from None
    try:
        yield
    finally:
        lock.release()


def check_not_running(folder: Path) -> None:
    """Raise InputError where another process runs the sweep in `folder`, before work is done that would be for nothing."""
    if is_begun(folder):
        with hold_sweep(folder):
            pass


class SweepStore:
    """The listener that keeps a sweep on disk.

    `resume=True` takes up the journal of an earlier start; `selected_on_test` says that `val` is the test split; `sweep_file` is
    the text of sweep.yaml, written once no other process can be running this sweep; `data` is recorded, unless a start before
    has; `gpus` are the names of those that this start uses. Raises InputError where `resume` does not fit the folder, or another process has it.
    A trial that is announced again goes on; an epoch that is reported again replaces the older report; a trial whose
    end is told again is worth what the later word says.
    """

    def __init__(
        self,
        folder: Path,
        *,
        resume: bool,
        selected_on_test: bool,
        sweep_file: str | None = None,
        data: DataRecord | None = None,
        gpus: Sequence[str] = (),
    ) -> None:
        if resume:
            check_folder(folder, resume=True)
        path = journal_path(folder)
        self._folder = folder
        self._selected_on_test = selected_on_test
        with ExitStack() as held:
            held.enter_context(hold_sweep(folder))
            check_folder(folder, resume=resume)  # another process may have begun this sweep since
            for name in _WRITTEN_HERE_ALONE:  # a driver that was killed while it wrote cannot clear up
                remove_unfinished(folder / name)
            self._history = replay(path) if resume else History()
            earlier = self._history.info
            self.info = SweepInfo(
                uid=earlier.uid if earlier else uuid.uuid4().hex[:8],
                started=earlier.started
                if earlier
                else datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                command=_command_line(),
                environment={
                    "code_version": environment.code_version(),
                    "hardware": environment.hardware(gpus),
                    "python": platform.python_version(),
                    **environment.library_versions(),
                },
                data=(earlier.data if earlier else None) or data,
            )
            if sweep_file is not None:
                # Before the journal: a folder with a journal can be resumed, which takes the sweep file.
                write_atomically(folder / "sweep.yaml", sweep_file)
            self._journal = Journal(path)
            self._held = held.pop_all()
        self._lock = threading.Lock()
        self._tables_lock = threading.Lock()
        self._epoch_tables: dict[tuple[str, int], tuple[Metrics, pa.Table]] = {}
        # All that is kept of the reports of a trial that has ended: as dictionaries they take ten times as much.
        self._ended_tables: dict[str, pa.Table] = {}
        self._record(opened_record(self.info))
        self.write_tables()
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._keep_tables_fresh, name="sweep-store", daemon=True)
        self._writer.start()

    def on_trial_start(self, event: TrialStart) -> None:
        self._record(start_record(event, code_version=self.info.environment["code_version"]))

    def on_epoch(self, trial_id: str, report: EpochReport) -> None:
        self._record(epoch_record(trial_id, report))
        self._changed.set()

    def on_trial_end(self, event: TrialEnd) -> None:
        self._record(end_record(event))
        self._changed.set()

    def close(self) -> None:
        """Write the Parquet files a last time and close the journal."""
        self._closing.set()
        self._changed.set()
        self._writer.join()
        self.write_tables()
        self._journal.close()
        self._held.close()

    def write_tables(self) -> None:
        """Bring `trials.parquet` and `metrics.parquet` up to date now."""
        with self._tables_lock:
            with self._lock:
                trials = self._history.trials()
                reports = {trial_id: dict(epochs) for trial_id, epochs in self._history.epochs.items()}
                ended = dict(self._ended_tables)
                over = [trial_id for trial_id in self._history.ends if reports.get(trial_id)]
            # A report is never changed, only replaced: an unchanged one has its table from the last time.
            known = self._epoch_tables
            tables = {
                (trial_id, epoch): known[trial_id, epoch]
                if (trial_id, epoch) in known and known[trial_id, epoch][0] is metrics
                else (metrics, epoch_table(trial_id, epoch, metrics))
                for trial_id, epochs in reports.items()
                for epoch, metrics in sorted(epochs.items())
            }
            of_trial = {trial_id: [ended[trial_id]] if trial_id in ended else [] for trial_id in reports}
            for (trial_id, _), (_, table) in tables.items():
                of_trial[trial_id].append(table)
            compact = {trial_id: concatenate_epochs(of_trial[trial_id]).combine_chunks() for trial_id in over}
            with self._lock:
                for trial_id, table in compact.items():
                    if _same_reports(self._history.epochs[trial_id], reports[trial_id]):
                        self._ended_tables[trial_id] = table
                        self._history.epochs[trial_id] = {}
            self._epoch_tables = {key: value for key, value in tables.items() if key[0] not in compact}
            everything = concatenate_epochs([table for tables in of_trial.values() for table in tables])
            for name, table in (
                ("metrics.parquet", everything),
                ("trials.parquet", trials_table(trials, self.info)),
            ):
                write_table(self._folder / name, table, selected_on_test=self._selected_on_test)

    def _record(self, record: dict[str, Any]) -> None:
        with self._lock:
            self._journal.append(record)
            if record["event"] == "epoch" and record["trial_id"] in self._ended_tables:  # it goes on
                self._history.epochs |= epochs_of(self._ended_tables.pop(record["trial_id"]))
            self._history.apply(record)

    def _keep_tables_fresh(self) -> None:
        while True:
            self._changed.wait()
            if self._closing.is_set():
                return
            self._changed.clear()
            began = time.monotonic()
            try:
                self.write_tables()
            except OSError:
                # The journal has everything; the next round, and `close` at the latest, writes it or says why not.
                self._changed.set()
            cost = time.monotonic() - began
            self._closing.wait(max(_MIN_INTERVAL_S, cost / _MAX_SHARE_OF_TIME))


def _same_reports(one: Epochs, other: Epochs) -> bool:
    """Whether none was added or replaced."""
    return one.keys() == other.keys() and all(one[epoch] is other[epoch] for epoch in one)


def _command_line() -> str:
    """The command as a user would type it again, without the path of the interpreter or the package."""
    program = Path(sys.argv[0])
    name = ["python", "-m", f"hvqray.{program.stem}"] if program.parent.name == "hvqray" else [program.name]
    return shlex.join([*name, *sys.argv[1:]])
