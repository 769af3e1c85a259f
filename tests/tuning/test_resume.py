"""Taking up a sweep: the study is brought in line with the journal."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from hvqray.errors import InputError
from hvqray.results.events import TrialStart
from hvqray.results.events import TrialState as EndState
from hvqray.results.history import TrialRecord
from hvqray.tuning.resume import open_storage, reconcile, study_name

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


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials(deepcopy=False)]


def test_ends_that_only_the_journal_knows_are_told() -> None:
    study = study_with(3)
    study.tell(2, 0.1)
    ended = [record_of(0, "COMPLETE", 0.7), record_of(1, "FAIL", None), record_of(2, "COMPLETE", 0.9)]
    assert reconcile(study, ended, [], [METRIC]) == []
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE"]
    values = [trial.value for trial in study.get_trials(deepcopy=False)]
    assert values == [0.7, None, 0.1]


def test_a_pruned_trial_is_told_as_pruned_with_its_last_value() -> None:
    study = optuna.create_study(direction="maximize")
    study.ask().report(0.4, 1)
    reconcile(study, [record_of(0, "PRUNED", 0.5)], [], [METRIC])
    assert states(study) == ["PRUNED"]
    assert study.get_trials(deepcopy=False)[0].value == 0.4


def test_several_metrics_are_told_in_their_order() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.ask()
    reconcile(study, [record_of(0, "COMPLETE", 0.7)], [], ["val/image_ap", METRIC])
    assert study.get_trials(deepcopy=False)[0].values == [0.2, 0.7]


def test_a_trial_unknown_to_the_journal_is_still_to_be_started() -> None:
    study = study_with(2)
    assert reconcile(study, [], [start_of(0)], [METRIC]) == [1]
    assert states(study) == ["RUNNING", "RUNNING"]


def test_a_trial_that_ended_in_the_study_alone_runs_again() -> None:
    study = study_with(2)
    study.tell(1, 0.5)
    assert reconcile(study, [], [start_of(0), start_of(1)], [METRIC]) == []
    assert states(study) == ["RUNNING", "COMPLETE"]


def test_nothing_happens_twice() -> None:
    study = study_with(2)
    ended, unfinished = [record_of(0, "COMPLETE", 0.7)], [start_of(1)]
    for _ in range(2):
        assert reconcile(study, ended, unfinished, [METRIC]) == []
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
