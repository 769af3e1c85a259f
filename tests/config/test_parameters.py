"""W&B's forms of a parameter, and the values that they stand for."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from hvqray.config.parameters import Choice, Parameter, Range


def parameter(**entry: Any) -> Parameter:
    return Parameter.model_validate(entry, strict=True)


@pytest.mark.parametrize(
    ("entry", "domain"),
    [
        ({"value": None}, Choice((None,))),
        ({"values": [[8, 5], [3]]}, Choice(([8, 5], [3]))),
        ({"min": 1, "max": 4}, Range(1, 4, step=1, integer=True)),
        ({"min": 1, "max": 4.0}, Range(1.0, 4.0)),
        ({"min": 1, "max": 4, "distribution": "uniform"}, Range(1.0, 4.0)),
        ({"min": 8, "max": 64, "distribution": "q_uniform", "q": 8}, Range(8, 64, step=8, integer=True)),
        ({"min": 2, "max": 4, "distribution": "q_uniform"}, Range(2, 4, step=1, integer=True)),
        ({"min": 0.1, "max": 0.5, "distribution": "q_uniform", "q": 0.1}, Range(0.1, 0.5, step=0.1)),
        ({"min": 1, "max": 100, "distribution": "log_uniform_values"}, Range(1.0, 100.0, log=True)),
        ({"min": -7, "max": 0, "distribution": "log_uniform"}, Range(math.exp(-7), 1.0, log=True)),
        (
            {"min": 8, "max": 64, "distribution": "q_log_uniform_values", "q": 8},
            Range(8, 64, log=True, step=8, integer=True),
        ),
    ],
)
def test_domains_follow_wandb(entry: dict[str, Any], domain: Choice | Range) -> None:
    assert parameter(**entry).domain() == domain


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({}, "has nothing; give either value"),
        ({"value": 1, "values": [1]}, "has value, values"),
        ({"min": 1}, "has min"),
        ({"min": 1, "max": None}, "give either value"),
        ({"values": []}, "values: is empty"),
        ({"values": [1, 2, 1]}, "1 is listed twice"),
        ({"values": [[8], [8]]}, "[8] is listed twice"),
        ({"values": [1, 2], "probabilities": [0.5, 0.5]}, "probabilities: is not supported"),
        ({"values": [1, 2], "distribution": "uniform"}, "does not go with a list of values"),
        ({"min": 3, "max": 1}, "min 3 is not below max 1; swap them"),
        ({"min": 3, "max": 3}, "use value for a constant"),
        ({"min": 0.0, "max": 1.0, "distribution": "log_uniform_values"}, "min 0.0 is not above 0"),
        ({"min": 0, "max": 8, "distribution": "q_log_uniform_values"}, "min 0 is not above 0"),
        ({"min": 1, "max": 1000, "distribution": "log_uniform"}, "max 1000 is an exponent (e^max) too large"),
        ({"min": -800, "max": 0, "distribution": "log_uniform"}, "min -800 is an exponent (e^min) too small"),
        (
            {"min": -900, "max": -800.5, "distribution": "log_uniform"},
            "min -900 is an exponent (e^min) too small",
        ),
        ({"min": 800, "max": 900, "distribution": "log_uniform"}, "min 800 is an exponent (e^min) too large"),
        ({"min": 0.5, "max": 2, "distribution": "int_uniform"}, "int_uniform needs integer ends"),
        ({"min": 1, "max": 9, "distribution": "q_uniform", "q": 2}, "min 1 is not a multiple of q 2"),
        ({"min": 2, "max": 8, "distribution": "q_uniform", "q": 0}, "q: 0 is out of range"),
        ({"min": 1, "max": 8, "q": 2}, "q: 2 has no effect with int_uniform"),
        ({"min": 1, "max": 8, "distribution": "unifrom"}, "did you mean 'uniform'"),
        (
            {"min": 1, "max": 8, "distribution": "inv_log_uniform_values"},
            "is not supported; use log_uniform_values",
        ),
        ({"min": 1.0, "max": math.inf}, "is not a finite range"),
        ({"min": 1, "max": 10**400}, "is not a finite range"),
        ({"min": 1.0, "max": 1e300, "distribution": "q_uniform", "q": 1e-300}, "too small a step"),
        ({"min": 0.1, "max": 1e300, "distribution": "q_uniform", "q": 0.1}, "q: 0.1 is too small a step"),
        ({"min": 1, "max": 9, "distribution": "q_uniform", "q": 10**400}, "is out of range; must be above 0"),
        ({"min": "1", "max": 2}, "min"),
        ({"min": True, "max": 2}, "min"),
        ({"value": 1, "when": {"a": []}}, "list of values is empty"),
        ({"vaule": 1}, "vaule"),
    ],
)
def test_faults(entry: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parameter(**entry)
    assert told in str(caught.value)


def test_steps_are_listed_without_the_noise_of_binary_fractions() -> None:
    domain = Range(0.1, 0.5, step=0.1)
    assert domain.all_values() == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert domain.size() == 5
    assert domain.contains(0.3)
    assert not domain.contains(0.35)
    assert not domain.contains(0.6)


def test_choices_tell_true_from_one() -> None:
    assert Choice((1, 2)).contains(1)
    assert not Choice((1, 2)).contains(True)


def test_long_ranges_are_sampled_at_their_ends() -> None:
    assert Range(1, 1000, step=1, integer=True).samples() == [1, 2, 1000]
    assert Range(0.0, 1.0).samples() == [0.0, 1.0]
    assert Range(0.0, 1.0).size() is None
