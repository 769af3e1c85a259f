"""Which parameters are said to count, of searches in which it is known."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, create_trial

from hvqray.results.figures import Chart
from hvqray.results.importances import importance_bars
from hvqray.results.search_charts import search_charts

MODEL = CategoricalDistribution(["hvq", "squad"])
RATE = FloatDistribution(1e-5, 1e-1, log=True)
SHARE = FloatDistribution(0.0, 1.0)
SPACE: dict[str, BaseDistribution] = {"model.name": MODEL, "train.lr": RATE, "train.share": SHARE}


def drawn(rng: random.Random) -> dict[str, Any]:
    return {
        "model.name": rng.choice(MODEL.choices),
        "train.lr": 10 ** rng.uniform(-5, -1),
        "train.share": rng.random(),
    }


def trial_of(values: list[float], params: dict[str, Any]) -> FrozenTrial:
    return create_trial(values=values, params=params, distributions={name: SPACE[name] for name in params})


def shares(trials: list[FrozenTrial]) -> dict[str, float]:
    (bars,) = importance_bars(trials, [trial.values[0] for trial in trials], name="objective").data
    return dict(zip(bars.y, bars.x, strict=True))


def chart_of(trials: list[FrozenTrial], *, num_objectives: int = 1) -> Chart:
    study = optuna.create_study(directions=["maximize"] * num_objectives)
    study.add_trials(trials)
    charts = search_charts(study, {f"val/{index}": "maximize" for index in range(num_objectives)})
    return next(chart for chart in charts if chart.title == "Parameter importances for val/0")


def test_a_categorical_parameter_that_counts_wins_over_continuous_ones_that_do_not() -> None:
    rng = random.Random(0)
    trials = []
    for _ in range(15):
        params = drawn(rng)
        trials.append(trial_of([0.03 * (params["model.name"] == "hvq") + rng.gauss(0, 0.005)], params))
    found = shares(trials)
    assert found["model.name"] > 0.7
    assert sum(found.values()) == pytest.approx(1)


def test_of_several_maximised_metrics_the_parameter_is_found_that_the_best_trials_owe_it_to() -> None:
    """The worst trials have a large `train.share`, by which they lose little more."""
    rng = random.Random(0)
    trials = []
    for _ in range(40):
        params = drawn(rng)
        good = params["train.lr"] > 1e-2
        trials.append(trial_of([0.5 * good - 0.1 * (params["train.share"] > 0.5), rng.random()], params))
    (bars,) = chart_of(trials, num_objectives=2).figure.data
    assert bars.y[-1] == "train.lr"
    assert bars.x[-1] > 0.8


def test_a_logarithmic_range_counts_in_its_logarithm() -> None:
    """Half of the trials lie in a thousandth of the range's length."""
    rng = random.Random(0)
    trials = []
    for _ in range(30):
        params = drawn(rng)
        trials.append(trial_of([0.5 * (params["train.lr"] < 1e-3) + 0.5 * params["train.share"]], params))
    found = shares(trials)
    # The variances of a fair coin and of a uniform number: 1/4 and 1/12.
    assert found["train.lr"] == pytest.approx(0.75, abs=0.1)


@pytest.mark.parametrize(
    ("num_trials", "params", "value", "reason"),
    [
        (
            9,
            drawn,
            lambda rng: rng.random(),
            "this needs at least 10 complete trials, and there are 9; run more (--num-trials), or without early_terminate",
        ),
        (10, drawn, lambda rng: 0.5, "all complete trials have the same value"),
        (10, lambda rng: {}, lambda rng: rng.random(), "the search has no parameters"),
        (
            10,
            lambda rng: {rng.choice(["train.share", "train.lr"]): 0.1},
            lambda rng: rng.random(),
            "there is no parameter that all complete trials have",
        ),
        (
            10,
            lambda rng: {"train.share": 0.1},
            lambda rng: rng.random(),
            "the parameters that all complete trials have do not differ",
        ),
    ],
)
def test_where_there_are_none_it_says_why(
    num_trials: int,
    params: Callable[[random.Random], dict[str, Any]],
    value: Callable[[random.Random], float],
    reason: str,
) -> None:
    rng = random.Random(0)
    chart = chart_of([trial_of([value(rng)], params(rng)) for _ in range(num_trials)])
    assert (chart.figure, chart.reason) == (None, reason)


def test_conditional_parameters_are_left_out_and_named() -> None:
    rng = random.Random(0)
    trials = []
    for number in range(10):
        params = drawn(rng)
        if number % 2:
            del params["train.share"]
        trials.append(trial_of([rng.random()], params))
    chart = chart_of(trials)
    assert set(chart.figure.data[0].y) == {"model.name", "train.lr"}
    assert "some trials do not have them: train.share." in chart.caption
    assert "the 10 complete trials" in chart.caption
