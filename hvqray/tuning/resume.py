"""Taking up a sweep whose driver is gone: the journal is the truth, and the study is brought in line with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import TrialState

from hvqray.errors import InputError
from hvqray.results.events import TrialStart
from hvqray.results.history import TrialRecord
from hvqray.tuning.study_search import tell


def study_name(sweep_name: str, metrics: Sequence[str], goals: Sequence[str]) -> str:
    """The study's name holds metrics and goals: Optuna would silently accept the same name with another direction."""
    return ", ".join([sweep_name, *(f"{goal} {metric}" for metric, goal in zip(metrics, goals, strict=True))])


def open_storage(path: Path, expected_study: str) -> optuna.storages.RDBStorage:
    """The SQLite storage at `path`, new or with exactly the expected study in it.

    Raises:
        InputError: The database holds a study of another name, metric or goal.
    """
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 30}})
    sqlalchemy.event.listen(storage.engine, "connect", _leave_flushing_to_the_system)
    storage.engine.dispose()  # connections made so far have not heard of it
    others = [study.study_name for study in storage.get_all_studies() if study.study_name != expected_study]
    if others:
        raise InputError(
            f"{others[0]!r} was searched here, not {expected_study!r}; resume with the metric and goal it was begun with,"
            " or choose another name",
            source=str(path),
            field="metric",
        )
    return storage


def _leave_flushing_to_the_system(connection: Any, _: object) -> None:
    """Flushing to the disk at each of a trial's some twenty transactions takes half a second on a busy one.

    What is left out protects against a power cut, not against a driver that is killed. A write-ahead log would be as
    fast, but does not work on network file systems.
    """
    connection.execute("PRAGMA synchronous=OFF")


def reconcile(
    study: optuna.Study,
    ended: Sequence[TrialRecord],
    unfinished: Sequence[TrialStart],
    metrics: Sequence[str],
) -> list[int]:
    """Bring the study in line with the journal; returns the numbers of trials that were asked for and never started.

    - ended in the journal, RUNNING in the study: told;
    - RUNNING in the study, unknown to the journal (the driver died between the two): returned, to be started yet;
    - ended in the study, unfinished in the journal: left alone, since it runs again from its checkpoint.
    """
    never_started = []
    by_number = {record.number: record for record in ended}
    started = {start.number for start in unfinished}
    for frozen in study.get_trials(deepcopy=False):
        if frozen.state.is_finished():
            continue
        record = by_number.get(frozen.number)
        if record is not None:
            values = [value for metric in metrics if (value := record.metrics.get(metric)) is not None]
            tell(study, frozen.number, TrialState[record.state], values)
        elif frozen.number not in started:
            never_started.append(frozen.number)
    return never_started
