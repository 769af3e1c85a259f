"""Taking up a sweep: the study is brought in line with the journal."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from hvqray.config.parameters import Parameter
from hvqray.errors import InputError
from hvqray.results.events import TrialStart
from hvqray.results.events import TrialState as EndState
from hvqray.results.history import Epochs, Metrics, TrialRecord
from hvqray.tuning.resume import open_storage, reconcile, study_name
from hvqray.tuning.space import SearchSpace

METRIC = "val/image_auroc"


def start_of(number: int) -> TrialStart:
    return TrialStart(f"t{number:04d}", number, {}, {}, "hash", 0)


def record_of(number: int, state: EndState, value: float | None) -> TrialRecord:
    metrics = {METRIC: value, "val/image_ap": 0.2}
    return TrialRecord(f"t{number:04d}", number, state, {}, metrics, 3, 1.0, "hash", 0, None, "0.1.0")


def study_with(num_trials: int) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    for _ in range(num_trials):
        study.ask()
    return study


def reconciled(
    study: optuna.Study,
    ended: Sequence[TrialRecord],
    unfinished: Sequence[TrialStart],
    metrics: Sequence[str] = (METRIC,),
) -> list[int]:
    return reconcile(study, ended, unfinished, metrics, space=SearchSpace({}), epochs={})


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials(deepcopy=False)]


def test_ends_that_only_the_journal_knows_are_told() -> None:
    study = study_with(3)
    study.tell(2, 0.1)
    ended = [record_of(0, "COMPLETE", 0.7), record_of(1, "FAIL", None), record_of(2, "COMPLETE", 0.9)]
    assert reconciled(study, ended, []) == []
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE"]
    values = [trial.value for trial in study.get_trials(deepcopy=False)]
    assert values == [0.7, None, 0.1]


def test_a_pruned_trial_is_told_as_pruned_with_its_last_value() -> None:
    study = optuna.create_study(direction="maximize")
    study.ask().report(0.4, 1)
    reconciled(study, [record_of(0, "PRUNED", 0.5)], [])
    assert states(study) == ["PRUNED"]
    assert study.get_trials(deepcopy=False)[0].value == 0.4


def test_several_metrics_are_told_in_their_order() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.ask()
    reconciled(study, [record_of(0, "COMPLETE", 0.7)], [], ["val/image_ap", METRIC])
    assert study.get_trials(deepcopy=False)[0].values == [0.2, 0.7]


def test_a_trial_unknown_to_the_journal_is_still_to_be_started() -> None:
    study = study_with(2)
    assert reconciled(study, [], [start_of(0)]) == [1]
    assert states(study) == ["RUNNING", "RUNNING"]


def test_a_trial_that_ended_in_the_study_alone_runs_again() -> None:
    study = study_with(2)
    study.tell(1, 0.5)
    assert reconciled(study, [], [start_of(0), start_of(1)]) == []
    assert states(study) == ["RUNNING", "COMPLETE"]


def test_a_point_that_waits_in_an_older_study_is_the_journal_s_trial() -> None:
    study = study_with(0)
    for _ in range(3):
        study.enqueue_trial({"train.lr": 1e-3})
    assert reconciled(study, [record_of(0, "COMPLETE", 0.7)], [start_of(1)]) == []
    assert states(study) == ["COMPLETE", "RUNNING", "WAITING"]
    assert study.ask().number == 2


def test_nothing_happens_twice() -> None:
    study = study_with(2)
    ended, unfinished = [record_of(0, "COMPLETE", 0.7)], [start_of(1)]
    for _ in range(2):
        assert reconciled(study, ended, unfinished) == []
        assert states(study) == ["COMPLETE", "RUNNING"]


def test_the_study_s_name_tells_metrics_and_goals() -> None:
    names = {
        study_name("s", ["val/image_auroc"], ["maximize"]),
        study_name("s", ["val/image_auroc"], ["minimize"]),
        study_name("s", ["val/image_ap"], ["maximize"]),
        study_name("other", ["val/image_auroc"], ["maximize"]),
        study_name("s", ["val/image_auroc", "val/image_ap"], ["maximize", "minimize"]),
        study_name("s", ["val/image_ap", "val/image_auroc"], ["minimize", "maximize"]),
    }
    assert len(names) == 6


def test_storage_takes_up_its_study_and_refuses_another_metric_or_goal(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    name = study_name("s", [METRIC], ["maximize"])
    study = optuna.create_study(study_name=name, storage=open_storage(path, name), direction="maximize")
    study.tell(study.ask(), 0.5)
    assert open_storage(path, name).get_all_trials(study._study_id)[0].state is TrialState.COMPLETE
    for metric, goal in ((METRIC, "minimize"), ("val/image_ap", "maximize")):
        with pytest.raises(InputError) as refused:
            open_storage(path, study_name("s", [metric], [goal]))
        message = str(refused.value)
        assert message.startswith(f"{path}: metric: 's, maximize val/image_auroc' was searched here, not")
        assert f"'s, {goal} {metric}'" in message
        assert "\n" not in message


SPACE = SearchSpace(
    {
        "a": Parameter(values=["x", [1, 2], None]),
        "b": Parameter(min=1, max=8, when={"a": "x"}),
        "c": Parameter(min=0.0, max=0.3, q=0.1, distribution="q_uniform"),
        "d": Parameter(min=1e-4, max=1e-2, q=1e-4, distribution="q_log_uniform_values"),
        "e": Parameter(min=1e-4, max=1.0, distribution="log_uniform_values"),
        "f": Parameter(value=7),
    }
)


def content(study: optuna.Study) -> list[Any]:
    return [
        (
            each.number,
            each.state,
            SPACE.params(each),
            each.distributions,
            each.values,
            each.intermediate_values,
        )
        for each in study.get_trials(deepcopy=False)
    ]


@pytest.mark.parametrize("lost_from", [0, 1, 3])
def test_trials_that_the_study_has_lost_are_added_as_they_were(tmp_path: Path, lost_from: int) -> None:
    on_disk = open_storage(tmp_path / "study.db", "s") if lost_from == 1 else None
    whole, older = (
        optuna.create_study(
            study_name="s",
            storage=storage,
            direction="maximize",
            sampler=optuna.samplers.RandomSampler(seed=1),
        )
        for storage in (None, on_disk)
    )
    ended: list[TrialRecord] = []
    unfinished: list[TrialStart] = []
    for number in range(10):
        for study in [whole, older][: 1 + (number < lost_from)]:
            trial = study.ask()
            SPACE(trial)
        params = SPACE.params(whole.get_trials()[number])
        trial_id = f"t{number:04d}"
        if number == 9:
            unfinished.append(TrialStart(trial_id, number, params, {}, "hash", 0))
            continue
        state: EndState = ("COMPLETE", "PRUNED", "FAIL")[number % 3]
        for study in [whole, older][: 1 + (number < lost_from)]:
            trial = optuna.trial.Trial(study, study.get_trials()[number]._trial_id)
            trial.report(0.5, 1)
            trial.report(0.01 * number, 2)
            trial.report(0.4, 3)
            study.tell(number, [0.7] if state == "COMPLETE" else None, state=TrialState[state])
        metrics: Metrics = {METRIC: 0.7 if state == "COMPLETE" else 0.5}
        ended.append(TrialRecord(trial_id, number, state, params, metrics, 3, 1.0, "h", 0, None, "0.1.0"))
    epochs: dict[str, Epochs] = {
        each.trial_id: {1: {METRIC: 0.5}, 2: {METRIC: 0.01 * each.number}, 3: {METRIC: 0.4}} for each in ended
    }
    assert reconcile(older, ended, unfinished, [METRIC], space=SPACE, epochs=epochs) == []
    assert content(older) == content(whole)
    assert older.ask().number == 10


def test_what_is_missing_of_a_trial_is_added_and_what_was_only_asked_for_is_still_to_be_started() -> None:
    study = study_with(1)
    params = {"a": "x", "b": 3, "c": 0.1, "d": 1e-4, "e": 0.5, "f": 7}
    late = TrialStart("t0002", 2, params, {}, "hash", 0)
    first = TrialRecord("t0000", 0, "COMPLETE", params, {METRIC: 0.7}, 1, 1.0, "hash", 0, None, "0.1.0")
    assert reconcile(study, [first], [late], [METRIC], space=SPACE, epochs={}) == [1]
    assert states(study) == ["COMPLETE", "RUNNING", "RUNNING"]
    assert [SPACE.params(study.get_trials()[number]) for number in (0, 2)] == [params, params]


def test_parameters_of_another_space_are_refused() -> None:
    foreign = TrialStart("t0000", 0, {"a": "y"}, {}, "hash", 0)
    with pytest.raises(InputError, match=r"t0000, whose parameters .* restore study\.db") as refused:
        reconcile(study_with(0), [], [foreign], [METRIC], space=SPACE, epochs={})
    assert "\n" not in str(refused.value)


def test_a_study_from_whose_midst_trials_are_gone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    study = optuna.create_study(study_name="s", storage=open_storage(path, "s"))
    for _ in range(3):
        study.ask()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM trials WHERE number = 1")
    with pytest.raises(InputError, match=r"study\.db: the numbers of its trials are not 0 to 1"):
        open_storage(path, "s")
