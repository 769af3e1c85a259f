"""Optuna as Tune's search: what a trial's end tells the study, and who is handed out first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler
from optuna.trial import TrialState

from hvqray.config.parameters import Parameter
from hvqray.results.events import TrialStart
from hvqray.training.epoch_report import EpochReport
from hvqray.tuning.resume import reconcile
from hvqray.tuning.samplers import EXHAUSTIVE, METHODS, make_sampler
from hvqray.tuning.space import SearchSpace
from hvqray.tuning.study_search import StudySearch, outcome, tell
from hvqray.tuning.trial import FULL_DISK_KEY, REPORT_KEY

METRIC, OTHER = "val/image_auroc", "val/pixel_ap"


def result_of(
    value: float | None,
    *,
    epoch: int = 1,
    is_last: bool = False,
    other: float | None = None,
    best: Any = "same",
) -> dict[str, Any]:
    """What a trial's `step` hands to Tune; `best` is the value of the epoch that counts."""
    metrics = {METRIC: value, OTHER: other}
    selected = metrics if best == "same" else {METRIC: best, OTHER: other}
    report = EpochReport(epoch, 3, metrics, 1.0, is_last=is_last, best_epoch=epoch, selected=selected)
    defined = {name: number for name, number in metrics.items() if number is not None}
    return {"epoch": epoch, "done": is_last, REPORT_KEY: json.dumps(asdict(report)), **defined}


def make_search(
    storage: optuna.storages.BaseStorage | None = None,
    *,
    metrics: Sequence[str] = (METRIC,),
    sampler: BaseSampler | None = None,
    target: float | None = None,
    points: Sequence[dict[str, Any]] = (),
    space: SearchSpace | None = None,
) -> tuple[StudySearch, list[TrialStart]]:
    """A search, and what it has announced so far."""
    announced: list[TrialStart] = []
    search = StudySearch(
        space or SearchSpace({"train.lr": Parameter(min=1e-4, max=1e-2), "train.epochs": Parameter(value=3)}),
        metrics=metrics,
        goals=["maximize", "minimize"][: len(metrics)],
        sampler=sampler or RandomSampler(seed=0),
        study_name="study",
        storage=storage or optuna.storages.InMemoryStorage(),
        resolve=lambda number, params: TrialStart(f"t{number:04d}", number, params, {}, f"hash{number}", 0),
        announce=announced.append,
        to_config=lambda start: {"spec": start.trial_id},
        target=target,
        points=points,
    )
    return search, announced


def rates(announced: Sequence[TrialStart]) -> list[float]:
    return [start.params["train.lr"] for start in announced]


def states(search: StudySearch) -> list[str]:
    return [trial.state.name for trial in search.study.get_trials(deepcopy=False)]


@pytest.mark.parametrize(
    ("result", "crashed", "state", "values"),
    [
        (result_of(0.7, epoch=3, is_last=True), False, TrialState.COMPLETE, [0.7]),
        (result_of(0.7, epoch=3, is_last=True, best=0.9), False, TrialState.COMPLETE, [0.9]),
        (result_of(0.0, epoch=3, is_last=True), False, TrialState.COMPLETE, [0.0]),
        (result_of(0.7), False, TrialState.PRUNED, [0.7]),
        (result_of(0.7, epoch=3, is_last=True), True, TrialState.FAIL, None),
        (result_of(float("nan"), epoch=3, is_last=True), False, TrialState.FAIL, None),
        (result_of(float("inf"), epoch=3, is_last=True), False, TrialState.FAIL, None),
        (result_of(None, epoch=3, is_last=True), False, TrialState.FAIL, None),
        ({"done": True, "trial_error": "ValueError: no"}, False, TrialState.FAIL, None),
        ({}, False, TrialState.FAIL, None),
        (None, False, TrialState.FAIL, None),
    ],
)
def test_outcome(
    result: dict[str, Any] | None, crashed: bool, state: TrialState, values: list[float] | None
) -> None:
    assert outcome(result, [METRIC], crashed=crashed) == (state, values)


def test_outcome_of_several_metrics_needs_all_of_them() -> None:
    both = result_of(0.7, is_last=True, other=0.2)
    assert outcome(both, [METRIC, OTHER]) == (TrialState.COMPLETE, [0.7, 0.2])
    assert outcome(result_of(0.7, is_last=True), [METRIC, OTHER]) == (TrialState.FAIL, None)


def test_the_study_learns_each_trial_s_end_as_what_it_is() -> None:
    search, announced = make_search()
    assert search.suggest("a") == {"spec": "t0000"}
    for name in "bcde":
        search.suggest(name)
    assert [start.number for start in announced] == [0, 1, 2, 3, 4]
    assert announced[0].params.keys() == {"train.lr", "train.epochs"}
    for epoch in (1, 2):
        search.on_trial_result("a", result_of(0.5 + epoch / 8, epoch=epoch))
        search.on_trial_result("b", result_of(0.5 - epoch / 8, epoch=epoch))
    search.on_trial_complete("a", result_of(0.8, epoch=3, is_last=True, best=0.85))
    search.on_trial_complete("b", result_of(0.6, epoch=2))
    search.on_trial_complete("c", result_of(float("nan"), epoch=3, is_last=True))
    search.on_trial_complete("d", {"done": True, "trial_error": "RuntimeError: no"})
    search.on_trial_complete("e", error=True)
    assert states(search) == ["COMPLETE", "PRUNED", "FAIL", "FAIL", "FAIL"]
    complete, pruned, *failed = search.study.get_trials(deepcopy=False)
    assert complete.value == 0.85
    assert complete.intermediate_values == {1: 0.625, 2: 0.75, 3: 0.8}
    assert pruned.value == 0.25
    assert all(trial.value is None for trial in failed)
    assert search.study.best_trial.number == 0


def test_a_result_that_ends_a_trial_is_the_value_at_which_it_was_pruned() -> None:
    search, _ = make_search()
    for name in "ab":
        search.suggest(name)
    search.on_trial_complete("a", result_of(0.6, epoch=1))
    search.on_trial_result("b", result_of(0.5, epoch=1))
    search.on_trial_complete("b", result_of(0.7, epoch=2))
    first, later = search.study.get_trials(deepcopy=False)
    assert (first.state, first.value, first.intermediate_values) == (TrialState.PRUNED, 0.6, {1: 0.6})
    assert (later.value, later.intermediate_values) == (0.7, {1: 0.5, 2: 0.7})


@pytest.mark.parametrize(
    ("last", "crashed", "handed_out"),
    [
        (result_of(0.9, epoch=3, is_last=True), False, "FINISHED"),
        (result_of(0.9, epoch=2), False, {"spec": "t0001"}),  # stopped there, so that no model has it
        (result_of(0.8, epoch=3, is_last=True), False, {"spec": "t0001"}),
        (result_of(0.9, epoch=3, is_last=True), True, {"spec": "t0001"}),
        (
            result_of(0.7, epoch=3, is_last=True, best=0.9),
            False,
            "FINISHED",
        ),  # in an epoch that an earlier driver saw
    ],
)
def test_a_target_reached_in_a_trial_s_last_epoch_ends_the_search(
    last: dict[str, Any], crashed: bool, handed_out: Any
) -> None:
    search, _ = make_search(target=0.9)
    search.suggest("a")
    search.on_trial_complete("a", last, crashed)
    assert search.suggest("b") == handed_out


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_target_reached_before_a_resume_ends_the_search(epoch: int) -> None:
    storage = optuna.storages.InMemoryStorage()
    first, _ = make_search(storage, target=0.9)
    resumed, _ = make_search(storage, target=0.9)  # before the study is brought up to the journal
    first.suggest("a")
    first.on_trial_complete("a", result_of(0.9, epoch=epoch, is_last=epoch == 3))
    resumed.hand_out_first([])
    assert resumed.suggest("b") == ("FINISHED" if epoch == 3 else {"spec": "t0001"})
    assert resumed.reached_by == (0 if epoch == 3 else None)


@pytest.mark.parametrize(
    ("end", "crashed", "handed_out"),
    [
        (result_of(0.7, epoch=3, is_last=True, best=0.9), False, "FINISHED"),
        (result_of(0.7, epoch=3, is_last=True), False, {"spec": "t0001"}),  # only its last epoch counts
        (result_of(0.9, epoch=2), True, {"spec": "t0001"}),
        (None, True, {"spec": "t0001"}),
    ],
)
@pytest.mark.parametrize("resumed", [False, True])
def test_nothing_is_handed_out_beside_a_trial_at_the_target_until_it_has_ended(
    end: dict[str, Any] | None, crashed: bool, handed_out: Any, resumed: bool
) -> None:
    storage = optuna.storages.InMemoryStorage()
    search, announced = make_search(storage, target=0.9)
    search.suggest("a")
    search.on_trial_result("a", result_of(0.9, epoch=1))
    assert search.suggest("b") is None
    if resumed:
        search, _ = make_search(storage, target=0.9)
        search.hand_out_first(announced)
        assert search.suggest("a") == {"spec": "t0000"}
    assert search.suggest("b") is None
    search.on_trial_complete("a", end, crashed)
    assert search.suggest("b") == handed_out
    assert search.reached_by == (0 if handed_out == "FINISHED" else None)


def test_an_undefined_objective_in_between_is_passed_over() -> None:
    search, _ = make_search()
    search.suggest("a")
    for epoch, value in enumerate((None, float("nan"), 0.5), start=1):
        search.on_trial_result("a", result_of(value, epoch=epoch))
    assert search.study.get_trials(deepcopy=False)[0].intermediate_values == {3: 0.5}


def test_a_trial_on_a_full_disk_has_not_ended() -> None:
    search, _ = make_search()
    search.suggest("a")
    search.on_trial_complete("a", {"done": True, FULL_DISK_KEY: "[28, null]"})
    assert states(search) == ["RUNNING"]


def test_an_end_told_twice_counts_once() -> None:
    search, _ = make_search()
    search.suggest("a")
    search.on_trial_complete("a", result_of(0.6, epoch=3, is_last=True))
    search.on_trial_complete("a", error=True)
    assert states(search) == ["COMPLETE"]
    tell(search.study, 0, TrialState.FAIL, None)
    assert states(search) == ["COMPLETE"]


@pytest.fixture
def storage(tmp_path: Path) -> optuna.storages.RDBStorage:
    return optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")


def test_interrupted_trials_go_first_under_their_old_number_and_parameters(
    storage: optuna.storages.RDBStorage,
) -> None:
    first, before = make_search(storage)
    for name in "abc":
        first.suggest(name)
    first.on_trial_complete("b", result_of(0.6, epoch=3, is_last=True))
    first.on_trial_result("a", result_of(0.4, epoch=1))

    second, after = make_search(storage)
    second.hand_out_first([before[0], before[2]])
    assert [second.suggest(name) for name in "xyz"] == [{"spec": f"t{number:04d}"} for number in (0, 2, 3)]
    assert after[:2] == [before[0], before[2]]
    # It had ended its epoch, but the driver died before hearing so: the epoch is told again.
    second.on_trial_result("x", result_of(0.4, epoch=1))
    second.on_trial_result("x", result_of(0.5, epoch=2))
    for name, value in (("x", 0.9), ("y", 0.1), ("z", 0.2)):
        second.on_trial_complete(name, result_of(value, epoch=3, is_last=True))
    assert [trial.value for trial in second.study.get_trials(deepcopy=False)] == [0.9, 0.6, 0.1, 0.2]
    resumed = second.study.get_trials(deepcopy=False)[0]
    assert resumed.params == {"train.lr": before[0].params["train.lr"]}
    assert resumed.intermediate_values == {1: 0.4, 2: 0.5, 3: 0.9}


def test_a_trial_that_only_the_study_knows_as_ended_runs_again_without_telling_it(
    storage: optuna.storages.RDBStorage,
) -> None:
    first, before = make_search(storage)
    first.suggest("a")
    first.on_trial_complete("a", result_of(0.6, epoch=3, is_last=True))

    second, after = make_search(storage)
    second.hand_out_first(before)
    second.suggest("x")
    assert after == before
    second.on_trial_result("x", result_of(0.6, epoch=3, is_last=True))
    second.on_trial_complete("x", result_of(0.6, epoch=3, is_last=True))
    assert states(second) == ["COMPLETE"]


def test_a_trial_that_the_study_knows_as_stopped_may_go_further_than_it_knows(
    storage: optuna.storages.RDBStorage,
) -> None:
    first, before = make_search(storage)
    first.suggest("a")
    first.on_trial_complete("a", result_of(0.6, epoch=1))

    second, _ = make_search(storage)
    second.hand_out_first(before)
    second.suggest("x")
    second.on_trial_result("x", result_of(0.7, epoch=2))
    second.on_trial_complete("x", result_of(0.8, epoch=3, is_last=True))
    (trial,) = second.study.get_trials(deepcopy=False)
    assert (trial.state, trial.intermediate_values) == (TrialState.PRUNED, {1: 0.6})


def test_a_trial_that_was_only_asked_for_is_started_with_what_it_was_given(
    storage: optuna.storages.RDBStorage,
) -> None:
    first, _ = make_search(storage)
    first.suggest("a")
    given = first.study.ask().suggest_float("train.lr", 1e-4, 1e-2)

    second, after = make_search(storage)
    second.hand_out_first([], [1])
    assert [second.suggest(name)["spec"] for name in "xy"] == ["t0001", "t0002"]
    assert after[0].params == {"train.lr": given, "train.epochs": 3}
    second.on_trial_complete("x", result_of(0.6, epoch=3, is_last=True))
    assert states(second) == ["RUNNING", "COMPLETE", "RUNNING"]


def test_several_objectives() -> None:
    search, _ = make_search(metrics=(METRIC, OTHER), sampler=NSGAIISampler(seed=0))
    for name in "abcd":
        search.suggest(name)
        search.on_trial_result(name, result_of(0.3, epoch=1, other=0.3))
    search.on_trial_complete("a", result_of(0.7, epoch=3, is_last=True, other=0.1))
    search.on_trial_complete("b", result_of(0.6, epoch=3, is_last=True, other=0.2))
    search.on_trial_complete("c", result_of(0.9, epoch=3, is_last=True))
    search.on_trial_complete("d", result_of(0.9, epoch=2, other=0.3))
    assert states(search) == ["COMPLETE", "COMPLETE", "FAIL", "PRUNED"]
    assert [trial.number for trial in search.study.best_trials] == [0]
    assert search.study.best_trials[0].values == [0.7, 0.1]


def test_tune_s_snapshots_are_refused() -> None:
    search, _ = make_search()
    with pytest.raises(NotImplementedError, match="study and journal"):
        search.restore("snapshot")


def test_points_come_first_and_then_what_the_sampler_suggests() -> None:
    search, announced = make_search(points=[{"train.lr": 2e-3}, {"train.lr": 3e-3}])
    for name in "abcd":
        search.suggest(name)
    plain, unguided = make_search()
    for name in "ab":
        plain.suggest(name)
    assert rates(announced)[:2] == [2e-3, 3e-3]
    assert rates(announced)[2:] == rates(unguided)
    assert states(search) == ["RUNNING"] * 4


def in_two(**options: Any) -> tuple[StudySearch, list[TrialStart]]:
    space = SearchSpace(
        {
            "train.lr": Parameter(min=1e-4, max=3e-4, q=1e-4, distribution="q_uniform"),
            "train.epochs": Parameter(min=1, max=4),
        }
    )
    method = options.pop("method", "random")
    return make_search(sampler=make_sampler(method, 0, 1, space=space), space=space, **options)


def test_what_a_point_leaves_out_is_suggested() -> None:
    search, announced = in_two(points=[{"train.epochs": 3}] * 8)
    for number in range(8):
        search.suggest(f"trial {number}")
    assert [start.params["train.epochs"] for start in announced] == [3] * 8
    assert len(set(rates(announced))) > 1


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_points(method: str) -> None:
    points = [{"train.lr": 3e-4, "train.epochs": 4}, {"train.lr": 1e-4, "train.epochs": 2}]
    search, announced = in_two(points=points, method=method)
    for number in range(12):
        search.suggest(f"trial {number}")
        search.on_trial_complete(f"trial {number}", result_of(0.5, epoch=3, is_last=True))
    assert [start.params for start in announced[:2]] == points
    if method in EXHAUSTIVE:
        assert len({tuple(start.params.items()) for start in announced}) == 12, "each of 3 x 4 once"


def test_points_that_were_added_come_next_on_a_resume(storage: optuna.storages.RDBStorage) -> None:
    given = [{"train.lr": 2e-3}]
    first, _ = make_search(storage, points=given)
    for name in "ab":
        first.suggest(name)
        first.on_trial_complete(name, result_of(0.5, epoch=3, is_last=True))
    second, announced = make_search(storage, points=[{"train.lr": 5e-3}, *given, {"train.lr": 6e-3}])
    second.hand_out_first([])
    for name in "cd":
        second.suggest(name)
    assert rates(announced) == [5e-3, 6e-3]


def test_an_end_that_could_not_be_told_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the search would wait for ever for a trial at the target."""
    search, _ = make_search(target=0.9)
    search.suggest("a")
    report = optuna.Trial.report
    told: list[float] = []

    def locked_once(self: optuna.Trial, value: float, step: int) -> None:
        told.append(value)
        if len(told) == 1:
            raise RuntimeError("database is locked")
        report(self, value, step)

    monkeypatch.setattr(optuna.Trial, "report", locked_once)
    last = result_of(0.95, epoch=3, is_last=True)
    with pytest.raises(RuntimeError, match="locked"):
        search.on_trial_complete("a", last)
    assert search.suggest("b") is None
    search.on_trial_complete("a", last)
    assert told == [0.95, 0.95]
    assert search.suggest("b") == "FINISHED"
    assert states(search) == ["COMPLETE"]


@pytest.mark.parametrize("handed_out", [0, 1, 2])
def test_a_resumed_search_goes_on_with_the_points_that_are_left(
    storage: optuna.storages.RDBStorage, handed_out: int
) -> None:
    given = [{"train.lr": 2e-3}, {"train.lr": 3e-3}]
    first, before = make_search(storage, points=given)
    for name in "ab"[:handed_out]:
        first.suggest(name)
    second, after = make_search(storage, points=given)
    second.hand_out_first(before)
    for name in "abc":
        second.suggest(name)
    assert [start.number for start in after] == [0, 1, 2]
    assert rates(after)[:2] == [2e-3, 3e-3]
    assert rates(after)[2] not in (2e-3, 3e-3)


def test_a_point_that_waits_since_the_driver_died_is_the_next_trial_s(
    storage: optuna.storages.RDBStorage,
) -> None:
    given = [{"train.lr": 2e-3}, {"train.lr": 3e-3}]
    first, _ = make_search(storage, points=given)
    first.study.enqueue_trial(given[0])  # and no more
    second, announced = make_search(storage, points=given)
    space = SearchSpace({"train.lr": Parameter(min=1e-4, max=1e-2)})
    assert reconcile(second.study, [], [], [METRIC], space=space, epochs={}) == []
    second.hand_out_first([])
    for name in "abc":
        second.suggest(name)
    assert [start.number for start in announced] == [0, 1, 2]
    assert rates(announced)[:2] == [2e-3, 3e-3]
