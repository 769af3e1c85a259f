"""Samplers: every method searches the spaces it claims to, and refuses the others."""

from __future__ import annotations

import json
from typing import Any

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from hvqray.config.parameters import Parameter
from hvqray.errors import InputError
from hvqray.tuning.samplers import EXHAUSTIVE, METHODS, make_sampler
from hvqray.tuning.space import SearchSpace

optuna.logging.set_verbosity(optuna.logging.ERROR)


def space(**entries: dict[str, Any]) -> SearchSpace:
    return SearchSpace(
        {name: Parameter.model_validate(entry, strict=True) for name, entry in entries.items()}
    )


NUMBERS = space(x={"min": 0.0, "max": 1.0}, n={"min": 1, "max": 8})
CHOICES = space(x={"min": 0.0, "max": 1.0}, k={"values": ["a", "b"]})
FINITE = space(
    k={"values": ["a", "b", "c"]}, n={"min": 1, "max": 4, "when": {"k": ["a", "b"]}}, l={"values": [[1], [2]]}
)
CONDITIONAL = space(k={"values": ["a", "b"]}, x={"min": 0.0, "max": 1.0, "when": {"k": "a"}})


def search(
    method: str, of: SearchSpace, *, num_trials: int = 12, num_objectives: int = 1, seed: int = 0
) -> list[dict[str, Any]]:
    study = optuna.create_study(
        sampler=make_sampler(method, seed, num_objectives, space=of, num_trials=num_trials),
        directions=["maximize"] * num_objectives,
    )
    drawn = []
    for number in range(num_trials):
        trial = study.ask()
        of(trial)
        drawn.append(of.params(trial))
        study.tell(trial, [float(number % 5)] * num_objectives)
    return drawn


ENDLESS = sorted(set(METHODS) - {"grid", "brute_force"})


@pytest.mark.parametrize("method", ENDLESS)
def test_searches_numbers_reproducibly(method: str) -> None:
    first = search(method, NUMBERS, num_trials=6)
    assert first == search(method, NUMBERS, num_trials=6)
    assert first[:2] != search(method, NUMBERS, num_trials=2, seed=1)
    assert len({params["x"] for params in first}) >= 3  # genetic samplers may inherit


@pytest.mark.parametrize("method", ["bayes", "random", "nsgaii", "NSGAIIISampler"])
def test_searches_conditional_spaces(method: str) -> None:
    drawn = search(method, CONDITIONAL, num_trials=20)
    assert {params["k"] for params in drawn} == {"a", "b"}


def test_bayes_without_groups_suggests_what_it_would_with_them() -> None:
    """Two trials run at a time, some are pruned, some fail: where all have the same parameters, groups change nothing."""
    drawn = []
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        grouped = TPESampler(seed=3, multivariate=True, group=True, constant_liar=True)
    for sampler in (grouped, make_sampler("bayes", 3, 1, space=CHOICES)):
        study = optuna.create_study(sampler=sampler, direction="maximize")
        running: list[optuna.Trial] = []
        for number in range(60):
            running.append(study.ask())
            CHOICES(running[-1])
            if number % 7 == 0:
                continue
            ended = running.pop(0)
            ended.report(ended.params["x"], 1)
            states = {1: TrialState.PRUNED, 2: TrialState.FAIL}
            state = states.get(number % 7, TrialState.COMPLETE)
            study.tell(ended, ended.params["x"] if state is TrialState.COMPLETE else None, state=state)
        drawn.append([trial.params for trial in study.trials])
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("method", ["grid", "BruteForceSampler", "GridSampler"])
def test_grid_tries_every_combination_once(method: str) -> None:
    size = FINITE.grid_size()
    assert size == 18
    drawn = search(method, FINITE, num_trials=size)
    assert len({json.dumps(params, sort_keys=True) for params in drawn}) == size


@pytest.mark.parametrize(
    ("low", "high", "q", "values"),
    [
        (2, 6, 2, [2, 4, 6]),
        (1.0, 3.0, 1, [1.0, 2.0, 3.0]),
        (0.1, 0.4, 0.1, [0.1, 0.2, 0.3, 0.4]),
        (1, 3, 1, [1, 2, 3]),
    ],
)
def test_grid_takes_each_step_of_a_logarithmic_range(
    low: float, high: float, q: float, values: list[float]
) -> None:
    entry = {"distribution": "q_log_uniform_values", "min": low, "max": high, "q": q}
    of = SearchSpace({"x": Parameter.model_validate(entry, strict=True)}, exhaustive=True)
    assert of.grid_size() == len(values)
    found = sorted(params["x"] for params in search("grid", of, num_trials=len(values)))
    assert found == values
    assert {type(value) for value in found} == {type(values[0])}


def test_grid_running_in_parallel_does_not_repeat_itself() -> None:
    study = optuna.create_study(sampler=make_sampler("grid", 0, 1, space=FINITE))
    trials = [study.ask() for _ in range(18)]
    for trial in trials:
        FINITE(trial)
    assert len({json.dumps(FINITE.params(trial)) for trial in trials}) == 18


def test_bayes_finds_better_values_than_random() -> None:
    of = space(x={"min": 0.0, "max": 1.0}, y={"min": 0.0, "max": 1.0}, k={"values": ["a", "b", "c"]})

    def mean_of_last(method: str, seed: int) -> float:
        study = optuna.create_study(
            sampler=make_sampler(method, seed, 1, space=of, num_trials=30), direction="maximize"
        )
        values = []
        for _ in range(30):
            trial = study.ask()
            of(trial)
            params = of.params(trial)
            values.append(-((params["x"] - 0.7) ** 2) - (params["y"] - 0.2) ** 2 - (params["k"] != "b"))
            study.tell(trial, values[-1])
        return sum(values[-10:])

    assert all(mean_of_last("bayes", seed) > mean_of_last("random", seed) for seed in range(3))


def test_random_start_is_scaled_to_the_length_of_the_search() -> None:
    short = make_sampler("bayes", 0, 1, space=NUMBERS, num_trials=10)
    long = make_sampler("bayes", 0, 1, space=NUMBERS, num_trials=200)
    assert (short._n_startup_trials, long._n_startup_trials) == (3, 10)


@pytest.mark.parametrize("method", ["nsgaii", "nsgaiii"])
@pytest.mark.parametrize(("num_trials", "size"), [(10, 4), (40, 8), (1000, 50), (None, 50)])
def test_a_short_search_has_generations_too(method: str, num_trials: int | None, size: int) -> None:
    sampler: Any = make_sampler(method, 0, 2, space=NUMBERS, num_trials=num_trials)
    assert sampler._population_size == size


@pytest.mark.parametrize("method", ["bayes", "random", "nsgaii", "nsgaiii", "gp", "qmc"])
def test_several_objectives(method: str) -> None:
    assert len(search(method, NUMBERS, num_objectives=2, num_trials=5)) == 5


@pytest.mark.parametrize(
    ("method", "of", "num_objectives", "told"),
    [
        ("bayse", NUMBERS, 1, "'bayse' is no method; did you mean 'bayes'?"),
        ("NSGAIISampl", NUMBERS, 1, "did you mean 'NSGAIISampler'?"),
        ("PartialFixedSampler", NUMBERS, 1, "is no method; fix a parameter with `value`, or with --set"),
        ("GridSampler", NUMBERS, 1, "x has infinitely many values"),
        ("grid", NUMBERS, 1, "method: grid: x has infinitely many values"),
        ("brute_force", CONDITIONAL, 1, "x has infinitely many values"),
        ("cmaes", NUMBERS, 2, "optimises a single metric"),
        ("cmaes", CHOICES, 1, "k lists values"),
        ("cmaes", space(x={"min": 0.0, "max": 1.0}), 1, "needs at least two searched parameters"),
        ("CmaEsSampler", CONDITIONAL, 1, "cannot search parameters with `when`"),
        ("gp", CONDITIONAL, 1, "cannot search parameters with `when`"),
        ("qmc", CHOICES, 1, "k lists values"),
        ("qmc", CONDITIONAL, 1, "cannot search parameters with `when`"),
    ],
)
def test_refuses_what_it_cannot_do(method: str, of: SearchSpace, num_objectives: int, told: str) -> None:
    with pytest.raises(InputError) as caught:
        make_sampler(method, 0, num_objectives, space=of)
    assert told in str(caught.value)
    assert str(caught.value).startswith("method: ")


def test_conditions_on_constants_do_not_make_a_space_conditional() -> None:
    of = space(k={"value": "a"}, x={"min": 0.0, "max": 1.0, "when": {"k": "a"}})
    assert not of.is_conditional()
    assert len(search("gp", of, num_trials=3)) == 3


def test_constants_that_apply_sometimes_make_a_space_conditional_only_for_what_hangs_on_them() -> None:
    sometimes = {"k": {"values": ["a", "b"]}, "c": {"value": True, "when": {"k": "a"}}}
    of = space(**sometimes, x={"min": 0.0, "max": 1.0})
    assert not of.is_conditional()
    drawn = search("bayes", of, num_trials=8)
    assert {params["k"]: params.get("c") for params in drawn} == {"a": True, "b": None}
    assert space(**sometimes, x={"min": 0.0, "max": 1.0, "when": {"c": True}}).is_conditional()


def test_every_sampler_of_optuna_is_known_by_its_class_name() -> None:
    names = {name for name in optuna.samplers.__all__ if name.endswith("Sampler") and "Base" not in name}
    assert len(names) >= 9
    for name in names - {"PartialFixedSampler"}:
        make_sampler(name, 0, 1, space=FINITE if name in EXHAUSTIVE else NUMBERS)
