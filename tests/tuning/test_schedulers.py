"""Early stopping: which trials Ray Tune's schedulers stop, and when."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from hvqray.config.search_sections import Hyperband, Median
from hvqray.config.section import Section
from hvqray.errors import InputError
from hvqray.tuning.schedulers import make_scheduler
from hvqray.tuning.trial import WORTH_KEY

METRIC = "val/image_auroc"


class FakeController:
    """Trials wait all the time."""

    def get_live_trials(self) -> list[FakeTrial]:
        return [FakeTrial("waiting")]


class FakeTrial:
    """What the schedulers ask of a trial."""

    status = "PENDING"

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id

    def __hash__(self) -> int:
        return hash(self.trial_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FakeTrial) and other.trial_id == self.trial_id


def last_epochs(rule: Section, values: list[float], *, num_epochs: int, mode: str = "max") -> list[int]:
    """Run trials of constant value one after another; the epoch at which each ends."""
    scheduler: Any = make_scheduler(rule, METRIC, mode, num_epochs)
    ends = []
    for number, value in enumerate(values):
        trial = FakeTrial(f"t{number}")
        scheduler.on_trial_add(FakeController(), trial)
        end = num_epochs
        for epoch in range(1, num_epochs + 1):
            # Ray's own counter starts again after a restart, and must not matter.
            result = {"epoch": epoch, "training_iteration": 1, METRIC: value, WORTH_KEY: value}
            decision = scheduler.on_trial_result(FakeController(), trial, result)
            assert decision != TrialScheduler.PAUSE
            if decision == TrialScheduler.STOP:
                end = epoch
                break
        scheduler.on_trial_complete(FakeController(), trial, result)
        ends.append(end)
    return ends


def hyperband(**keys: Any) -> Hyperband:
    return Hyperband(type="hyperband", **keys)


def test_none() -> None:
    assert make_scheduler(None, METRIC, "max", 8) is None


def test_hyperband_stops_the_worse_at_the_rungs() -> None:
    # Rungs at 2 and 6. The second trial is worse than the first; the third is the best so far.
    assert last_epochs(hyperband(min_iter=2, eta=3), [0.8, 0.5, 0.9], num_epochs=8) == [8, 2, 8]
    assert last_epochs(hyperband(min_iter=2, eta=3), [0.8, 0.9, 0.5], num_epochs=8, mode="min") == [8, 2, 8]


def test_hyperband_counted_down_from_max_iter() -> None:
    # W&B: max_iter 27, s 2 and eta 3 are rungs at 9 and 3.
    assert hyperband(max_iter=27, s=2).first_rung() == 3
    assert last_epochs(hyperband(max_iter=27, s=2), [0.8, 0.5], num_epochs=30) == [30, 3]
    assert hyperband(max_iter=2, s=4).first_rung() == 1


@pytest.mark.parametrize(
    ("keys", "num_epochs", "rungs"),
    [
        # W&B: rungs at max_iter / eta, max_iter / eta**2, ..., so that max_iter is none.
        ({"max_iter": 27, "s": 2}, 60, [3, 9]),
        ({"max_iter": 9, "s": 1}, 9, [3]),
        # 10 / 9 is rounded down to 1, which leaves room for another rung, at 9.
        ({"max_iter": 10, "s": 2}, 10, [1, 3]),
        ({"max_iter": 10, "s": 5, "eta": 1.5}, 10, [1, 1.5, 2.25, 3.375, 5.0625]),
        ({"max_iter": 729, "s": 6}, 729, [1, 3, 9, 27, 81, 243]),
        ({"max_iter": 9, "s": 4}, 30, [1, 3]),
        ({"max_iter": 81, "s": 3}, 20, [3, 9]),
        ({"min_iter": 1, "max_iter": 243}, 500, [1, 3, 9, 27, 81, 243]),
        ({"min_iter": 2}, 8, [2, 6]),
    ],
)
def test_rungs_are_where_the_sweep_file_has_them(
    keys: dict[str, Any], num_epochs: int, rungs: list[float]
) -> None:
    scheduler: Any = make_scheduler(hyperband(**keys), METRIC, "max", num_epochs)
    told = re.findall(r"Iter ([\d.]+):", scheduler.debug_string())
    assert sorted(map(float, told)) == pytest.approx(rungs, abs=1e-3)


def test_no_rung_beyond_max_iter() -> None:
    scheduler: Any = make_scheduler(hyperband(min_iter=2, max_iter=6, eta=2), METRIC, "max", 40)
    assert "Iter 4.000" in scheduler.debug_string()
    assert "Iter 8.000" not in scheduler.debug_string()


def test_median_stops_below_the_median_after_its_grace() -> None:
    rule = Median(type="median", min_iter=3)
    assert last_epochs(rule, [0.7, 0.8, 0.9, 0.5, 0.95], num_epochs=6) == [6, 6, 6, 3, 6]


@pytest.mark.parametrize(
    "rule", [hyperband(min_iter=9), hyperband(max_iter=81, s=2), Median(type="median", min_iter=9)]
)
def test_a_rule_that_can_stop_nothing_is_refused(rule: Section) -> None:
    with pytest.raises(
        InputError, match="early_terminate: no trial can be stopped before epoch 9, but trials have 8"
    ):
        make_scheduler(rule, METRIC, "max", 8)


@pytest.mark.parametrize("rule", [hyperband(min_iter=8), Median(type="median", min_iter=8)])
def test_a_rule_of_the_last_epoch_is_refused(rule: Section) -> None:
    with pytest.raises(InputError, match="no trial can be stopped before epoch 8, but trials have 8"):
        make_scheduler(rule, METRIC, "max", 8)


def test_median_goes_by_each_epoch_and_hyperband_by_what_a_trial_is_worth() -> None:
    """Others were worth .9 from their first epoch on, and .3 after each of the others."""
    decisions = []
    for rule in (Median(type="median", min_iter=4), hyperband(min_iter=4, eta=3)):
        scheduler: Any = make_scheduler(rule, METRIC, "max", 8)
        for name, value in (("a", 0.3), ("b", 0.3), ("c", 0.3), ("d", 0.5)):
            scheduler.on_trial_add(FakeController(), FakeTrial(name))
            for epoch in range(1, 5):
                worth = value if name == "d" else 0.9
                result = {
                    "epoch": epoch,
                    METRIC: 0.9 if epoch == 1 and name != "d" else value,
                    WORTH_KEY: worth,
                }
                decision = scheduler.on_trial_result(FakeController(), FakeTrial(name), result)
        decisions.append(decision)
    assert decisions == [TrialScheduler.CONTINUE, TrialScheduler.STOP]


@pytest.mark.parametrize("end", [{"done": True, "trial_error": "it diverged"}, {"epoch": 8, "done": True}])
@pytest.mark.parametrize(
    "rule", [Median(type="median", min_iter=1), hyperband(min_iter=2)], ids=lambda rule: rule.type
)
def test_a_trial_that_fails_harms_no_other(rule: Section, end: dict[str, Any]) -> None:
    scheduler: Any = make_scheduler(rule, METRIC, "max", 8)
    for name in ("failed", "a", "b", "c", "d"):
        scheduler.on_trial_add(FakeController(), FakeTrial(name))
    for number in range(1, 4):
        for name in ("failed", "a", "b", "c", "d"):
            result = {"epoch": number, METRIC: 0.5, WORTH_KEY: 0.5}
            if name != "failed":
                decision = scheduler.on_trial_result(FakeController(), FakeTrial(name), result)
                assert decision == TrialScheduler.CONTINUE
            elif number == 1:
                scheduler.on_trial_result(FakeController(), FakeTrial(name), result)
                scheduler.on_trial_complete(FakeController(), FakeTrial(name), end)
