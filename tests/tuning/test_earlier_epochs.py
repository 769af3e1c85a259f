"""A scheduler of a resumed sweep judges as if it had seen everything."""

from __future__ import annotations

from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from hvqray.config.search_sections import Hyperband, Median
from hvqray.results.history import Epochs
from hvqray.tuning.earlier_epochs import EarlierEpochs, results_again
from hvqray.tuning.schedulers import make_scheduler
from hvqray.tuning.trial import WORTH_KEY, TrialSpec

METRIC = "val/image_auroc"
HYPERBAND = Hyperband(type="hyperband", min_iter=2, eta=2)
MEDIAN = Median(type="median", min_iter=2)
NUM_EPOCHS = 8


class TuneTrial:
    """A trial of ours under an id that Tune made up."""

    status = "RUNNING"

    def __init__(self, trial_id: str) -> None:
        self.trial_id = f"tune-{trial_id}"
        spec = TrialSpec(trial_id, {}, "", METRIC, True, [METRIC], None, 1, 1.0, 0.0, "")
        self.config = spec.to_config()


def epochs(value: float | None, number: int = NUM_EPOCHS) -> Epochs:
    return {epoch: {METRIC: value, "train/loss": 1.0} for epoch in range(1, number + 1)}


def told(past: dict[str, Epochs]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: results_again(of_trial, METRIC, maximize=True, keeps_best=True)
        for name, of_trial in past.items()
    }


def last_epoch(scheduler: Any, earlier: EarlierEpochs, trial_id: str, value: float, *, first: int = 1) -> int:
    """The epoch at which a trial of constant value is stopped, or its last one."""
    trial = TuneTrial(trial_id)
    scheduler.on_trial_add(None, trial)
    earlier.on_trial_start(0, [], trial)
    for epoch in range(first, NUM_EPOCHS + 1):
        if (
            scheduler.on_trial_result(None, trial, {"epoch": epoch, METRIC: value, WORTH_KEY: value})
            == TrialScheduler.STOP
        ):
            return epoch
    return NUM_EPOCHS


@pytest.mark.parametrize("rule", [HYPERBAND, MEDIAN], ids=lambda rule: rule.type)
def test_trials_that_ended_are_what_new_ones_are_measured_by(rule: Hyperband | Median) -> None:
    past = {f"t{number:04d}": epochs(0.7 + 0.05 * number) for number in range(4)}
    # An undefined value is none, and a trial that the others beat by far had been stopped by rung 2.
    past |= {"t0004": epochs(None), "t0005": epochs(0.1, 2)}
    scheduler = make_scheduler(rule, METRIC, "max", NUM_EPOCHS)
    assert scheduler is not None
    earlier = EarlierEpochs(scheduler, told(past), list(past))
    assert last_epoch(scheduler, earlier, "t0006", 0.5) == 2
    assert last_epoch(scheduler, earlier, "t0007", 0.9) == NUM_EPOCHS

    forgetful = make_scheduler(rule, METRIC, "max", NUM_EPOCHS)
    assert forgetful is not None
    nothing = EarlierEpochs(forgetful, {}, [])
    assert last_epoch(forgetful, nothing, "t0006", 0.5) == NUM_EPOCHS, "the comparison would say nothing"


def test_a_trial_that_goes_on_has_passed_the_rungs_that_it_had_passed() -> None:
    past = {"t0000": epochs(0.9), "t0001": epochs(0.2, 5)}
    scheduler: Any = make_scheduler(HYPERBAND, METRIC, "max", NUM_EPOCHS)
    earlier = EarlierEpochs(scheduler, told(past), ["t0000"])
    # Rungs at 2, 4 and 8. It tells epoch 5 again, after which only the last rung lies ahead.
    assert last_epoch(scheduler, earlier, "t0001", 0.2, first=5) == 8
    # Its values at rungs 2 and 4 count for others: half of the trials there, it and t0000, are better than 0.3.
    rungs = scheduler.debug_string()
    assert "Iter 2.000: 0.55" in rungs
    assert "Iter 4.000: 0.55" in rungs


def test_a_trial_that_goes_on_is_judged_by_the_epoch_that_it_tells_again() -> None:
    """Its driver may have died before it could stop the trial there."""
    past = {"t0000": epochs(0.9), "t0001": epochs(0.2, 4)}
    scheduler: Any = make_scheduler(HYPERBAND, METRIC, "max", NUM_EPOCHS)
    earlier = EarlierEpochs(scheduler, told(past), ["t0000"])
    assert last_epoch(scheduler, earlier, "t0001", 0.2, first=4) == 4


def test_an_epoch_that_was_not_measured_does_not_hide_the_one_before() -> None:
    """It tells epoch 5 again, which says nothing of what it was worth at rung 4."""
    past = {"t0000": epochs(0.9), "t0001": epochs(0.2, 4) | {5: {"train/loss": 1.0}}}
    scheduler: Any = make_scheduler(HYPERBAND, METRIC, "max", NUM_EPOCHS)
    earlier = EarlierEpochs(scheduler, told(past), ["t0000"])
    assert last_epoch(scheduler, earlier, "t0001", 0.2, first=6) == 8
    assert "Iter 4.000: 0.55" in scheduler.debug_string()


@pytest.mark.parametrize(
    ("maximize", "keeps_best", "expected"),
    [
        (True, True, [0.5, None, 0.7, 0.7, None, 0.7, 0.8]),
        (False, True, [0.5, None, 0.5, 0.4, None, 0.4, 0.4]),
        (True, False, [0.5, None, 0.7, 0.4, None, 0.6, 0.8]),
    ],
)
def test_a_trial_is_worth_the_epoch_that_it_keeps(
    maximize: bool, keeps_best: bool, expected: list[float | None]
) -> None:
    values = [0.5, None, 0.7, 0.4, float("nan"), 0.6, 0.8]
    of_trial: Epochs = {epoch: {METRIC: value} for epoch, value in enumerate(values, start=1)}
    of_trial[2] = {"train/loss": 1.0}
    found = results_again(of_trial, METRIC, maximize=maximize, keeps_best=keeps_best)
    assert [result["epoch"] for result in found] == [1, 2, 3, 4, 5, 6, 7]
    assert [result.get(WORTH_KEY) for result in found] == expected
    assert [result.get(METRIC) for result in found] == [0.5, None, 0.7, 0.4, None, 0.6, 0.8]
