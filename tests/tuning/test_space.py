"""The space as Optuna sees it."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import optuna
import pytest

from hvqray.config.parameters import Parameter
from hvqray.config.sweep_file import load_sweep, resolve_run_config
from hvqray.errors import InputError
from hvqray.tuning.space import SearchSpace

optuna.logging.set_verbosity(optuna.logging.ERROR)


def space(**entries: dict[str, Any]) -> SearchSpace:
    return SearchSpace(
        {name: Parameter.model_validate(entry, strict=True) for name, entry in entries.items()}
    )


def draw(
    of: SearchSpace, num_trials: int = 40, sampler: optuna.samplers.BaseSampler | None = None
) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=sampler or optuna.samplers.RandomSampler(seed=0))
    drawn = []
    for _ in range(num_trials):
        trial = study.ask()
        assert of(trial) is None
        drawn.append(of.params(trial))
        study.tell(trial, 0.0)
        assert of.params(study.trials[-1]) == drawn[-1]
    return drawn


CONDITIONAL = {
    "a": {"values": ["x", "y", "z"]},
    "b": {"min": 1, "max": 3, "when": {"a": ["x", "y"]}},
    "c": {"values": [[1, 2], [3]], "when": {"a": "x", "b": 2}},
    "d": {"value": 7, "when": {"a": "z"}},
    "e": {"values": [True, False, None]},
}


def test_suggests_what_applies() -> None:
    for params in draw(space(**CONDITIONAL), 80):
        assert ("b" in params) == (params["a"] in ("x", "y"))
        assert ("c" in params) == (params["a"] == "x" and params["b"] == 2)
        assert ("d" in params) == (params["a"] == "z")
        assert params.get("c") in (None, [1, 2], [3])
        assert params.get("d") in (None, 7)
        assert "e" in params


def test_grid_size_counts_conditional_combinations() -> None:
    count = 0
    for a, b, c, _ in itertools.product("xyz", (1, 2, 3), (0, 1), range(3)):
        b_applies, c_applies = a in "xy", a == "x" and b == 2
        count += (b_applies or b == 1) and (c_applies or c == 0)
    assert space(**CONDITIONAL).grid_size() == count == 24


def test_grid_size_of_constants_and_of_endless_ranges() -> None:
    assert space(a={"value": 1}).grid_size() == 1
    assert space(a={"values": [1, 2]}, b={"min": 0.0, "max": 1.0}).grid_size() is None
    stepped = {"min": 0.1, "max": 0.5, "distribution": "q_uniform", "q": 0.1}
    assert space(a={"values": [1, 2]}, b=stepped, c={"min": 0, "max": 9}).grid_size() == 100


def test_what_never_applies_is_no_part_of_a_grid() -> None:
    never = {"min": 0.0, "max": 1.0, "when": {"a": "z"}}
    of = space(a={"value": "x"}, b=never, c={"values": [1, 2]})
    assert (of.endless(), of.grid_size()) == (None, 2)
    of = space(a={"value": "x"}, b=never, c={"min": 0.0, "max": 1.0}, d={"values": [1, 2]})
    assert (of.endless(), of.grid_size()) == ("c", None)


def test_survives_plain_pickle() -> None:
    original = space(**CONDITIONAL)
    copy = pickle.loads(pickle.dumps(original))
    assert draw(copy, 5) == draw(original, 5)


@pytest.mark.parametrize(
    ("entry", "kind", "valid"),
    [
        ({"min": 1, "max": 5}, int, lambda v: 1 <= v <= 5),
        ({"min": 0.0, "max": 0.5}, float, lambda v: 0 <= v <= 0.5),
        ({"min": 8, "max": 32, "distribution": "q_uniform", "q": 8}, int, lambda v: v in (8, 16, 24, 32)),
        (
            {"min": 0.1, "max": 0.4, "distribution": "q_uniform", "q": 0.1},
            float,
            lambda v: v in (0.1, 0.2, 0.3, 0.4),
        ),
        (
            {"min": 1e-4, "max": 1e-2, "distribution": "log_uniform_values"},
            float,
            lambda v: 1e-4 <= v <= 1e-2,
        ),
        ({"min": -7, "max": 0, "distribution": "log_uniform"}, float, lambda v: 0.0009 < v <= 1),
        (
            {"min": 8, "max": 64, "distribution": "q_log_uniform_values", "q": 8},
            int,
            lambda v: v % 8 == 0 and 8 <= v <= 64,
        ),
        ({"min": 4, "max": 64, "distribution": "q_log_uniform_values"}, int, lambda v: 4 <= v <= 64),
    ],
)
def test_values_are_of_the_distribution(entry: dict[str, Any], kind: type, valid: Any) -> None:
    values = [params["a"] for params in draw(space(a=entry), 60)]
    assert {type(value) for value in values} == {kind}
    assert all(valid(value) for value in values)
    assert len(set(values)) > 1


def test_logarithmic_ranges_favour_no_decade() -> None:
    values = [
        p["a"] for p in draw(space(a={"min": 1e-4, "max": 1.0, "distribution": "log_uniform_values"}), 150)
    ]
    assert 50 < sum(value < 1e-2 for value in values) < 100


def test_constants_are_not_suggested() -> None:
    trial = optuna.create_study().ask()
    of = space(a={"value": [1, 2]}, b={"values": [3]})
    of(trial)
    assert trial.params == {}
    assert of.params(trial) == {"a": [1, 2], "b": 3}


def test_lists_are_stored_as_stable_text() -> None:
    trial = optuna.create_study().ask()
    of = space(a={"values": [[8, 5, 5, 5], [8, 6, 5]]})
    of(trial)
    assert trial.params["a"] in ("[8,5,5,5]", "[8,6,5]")


def test_trials_of_another_space_are_refused() -> None:
    trial = optuna.trial.create_trial(
        params={"a": 9}, distributions={"a": optuna.distributions.CategoricalDistribution([9])}, value=0.0
    )
    with pytest.raises(InputError, match="another sweep file"):
        space(a={"values": [1, 2]}).params(trial)
    with pytest.raises(InputError, match="has no b"):
        space(b={"values": [1, 2]}).params(trial)


@pytest.mark.parametrize("name", ["fsq", "hvq", "squad", "no_quantizer"])
def test_points_of_the_shipped_spaces_are_whole_configurations(name: str) -> None:
    sweep = load_sweep(Path(__file__).parents[2] / "search_spaces" / f"{name}.yaml")
    assert sweep.points_to_evaluate
    of = SearchSpace(sweep.parameters)
    for point in sweep.points_to_evaluate:
        params = of.params(of.suggested(point))  # raises where one is missing
        assert params.items() >= point.items()
        assert resolve_run_config(sweep, params)
