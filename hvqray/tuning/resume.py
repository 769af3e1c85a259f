"""Taking up a sweep whose driver is gone: the journal is the truth, and the study is brought in line with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import TrialState

from hvqray.errors import InputError
from hvqray.results.events import TrialStart
from hvqray.results.history import Epochs, TrialRecord
from hvqray.tuning.space import SearchSpace
from hvqray.tuning.study_search import finite_value, tell

_MEND = "restore study.db, or search anew under another name with --set name=NAME"


def study_name(sweep_name: str, metrics: Sequence[str], goals: Sequence[str]) -> str:
    """The study's name holds metrics and goals: Optuna would silently accept the same name with another direction."""
    return ", ".join([sweep_name, *(f"{goal} {metric}" for metric, goal in zip(metrics, goals, strict=True))])


def open_storage(path: Path, expected_study: str) -> optuna.storages.RDBStorage:
    """The SQLite storage at `path`, new or with exactly the expected study in it.

    Raises:
        InputError: The database holds a study of another name, metric or goal, or one from whose midst trials were deleted.
    """
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 30}})
    sqlalchemy.event.listen(storage.engine, "connect", _leave_flushing_to_the_system)
    storage.engine.dispose()  # connections made so far have not heard of it
    others = [study.study_name for study in storage.get_all_studies() if study.study_name != expected_study]
    if others:
        raise InputError(
            f"{others[0]!r} was searched here, not {expected_study!r}; resume with the metric and goal it was begun with,"
            " or choose another name with --set name=NAME",
            source=str(path),
            field="metric",
        )
    for study in storage.get_all_studies():
        numbers = [trial.number for trial in storage.get_all_trials(study._study_id, deepcopy=False)]
        if numbers != list(range(len(numbers))):
            raise InputError(
                f"the numbers of its trials are not 0 to {len(numbers) - 1}, so some were deleted; {_MEND}",
                source=str(path),
            )
    return storage


def _leave_flushing_to_the_system(connection: Any, _: object) -> None:
    """Flushing to the disk at each of a trial's some twenty transactions takes half a second on a busy one.

    What is left out protects against a power cut, not against a driver that is killed; after one `reconcile` makes up for what
    is lost. A write-ahead log would be as fast, but does not work on network file systems.
    """
    connection.execute("PRAGMA synchronous=OFF")


def reconcile(
    study: optuna.Study,
    ended: Sequence[TrialRecord],
    unfinished: Sequence[TrialStart],
    metrics: Sequence[str],
    *,
    space: SearchSpace,
    epochs: Mapping[str, Epochs],
) -> list[int]:
    """Bring the study in line with the journal; returns the numbers of trials that were asked for and never started.

    - in the journal, not (or not wholly) in the study, which may be older, after a power cut or as a copy that was restored:
      added under its number, with its parameters and what its `epochs` (by trial id) reported;
    - ended in the journal, RUNNING in the study: told;
    - RUNNING in the study, unknown to the journal (the driver died between the two): returned, to be started yet;
    - ended in the study, unfinished in the journal: left alone, since it runs again from its checkpoint.

    What samplers note down of a trial for themselves, such as its generation, is not in the journal: one that was added is to
    them as one that another sampler suggested.

    Raises:
        InputError: A trial cannot be added, as its parameters are not of this `space`.
    """
    never_started = []
    journal: dict[int, TrialRecord | TrialStart] = {record.number: record for record in ended}
    journal |= {start.number: start for start in unfinished}
    for _ in range(len(study.get_trials(deepcopy=False)), max(journal, default=-1) + 1):
        study.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING))
    for frozen in study.get_trials(deepcopy=False):
        if frozen.state.is_finished():
            continue
        known = journal.get(frozen.number)
        if frozen.state is TrialState.WAITING:
            if known is None:  # a point to evaluate, which the next trial takes
                continue
            study._storage.set_trial_state_values(frozen._trial_id, TrialState.RUNNING)
        if known is None:
            never_started.append(frozen.number)
            continue
        _add_params(study, frozen, known, space)
        if len(metrics) == 1:
            _add_epochs(study, frozen, epochs.get(known.trial_id, {}), metrics[0])
        if isinstance(known, TrialRecord):
            values = [value for metric in metrics if (value := known.metrics.get(metric)) is not None]
            tell(study, frozen.number, TrialState[known.state], values)
    return never_started


def _add_params(
    study: optuna.Study,
    frozen: optuna.trial.FrozenTrial,
    known: TrialRecord | TrialStart,
    space: SearchSpace,
) -> None:
    missing = {name for name in space.searched() if name in known.params} - frozen.params.keys()
    if not missing:
        return
    try:
        suggested = space.suggested(known.params)
    except ValueError as error:
        raise InputError(
            f"the study lacks {known.trial_id}, whose parameters in the journal are not of this space ({error}); {_MEND}"
        ) from error
    for name in suggested.distributions.keys() & missing:
        distribution = suggested.distributions[name]
        internal = distribution.to_internal_repr(suggested.params[name])
        study._storage.set_trial_param(frozen._trial_id, name, internal, distribution)


def _add_epochs(study: optuna.Study, frozen: optuna.trial.FrozenTrial, epochs: Epochs, metric: str) -> None:
    for epoch, metrics in epochs.items():
        value = finite_value(metrics, metric)
        if value is not None and epoch not in frozen.intermediate_values:
            study._storage.set_trial_intermediate_value(frozen._trial_id, epoch, value)
