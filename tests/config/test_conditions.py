"""Which parameters apply."""

from __future__ import annotations

from typing import Any

import pytest

from hvqray.config.conditions import applies, contexts, controlling
from hvqray.config.parameters import Parameter

PARAMETERS = {
    "a": Parameter(values=["x", "y"]),
    "b": Parameter(values=[1, 2], when={"a": "x"}),
    "c": Parameter(values=[True, False], when={"b": [2]}),
    "d": Parameter(min=0.0, max=1.0, when={"c": True}),
}


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ({}, {"a"}),
        ({"a": "x"}, {"a", "b"}),
        # What depends on a parameter that does not apply itself does not apply either.
        ({"a": "y"}, {"a"}),
        ({"a": "x", "b": 1}, {"a", "b"}),
        ({"a": "x", "b": 2, "c": True}, {"a", "b", "c", "d"}),
        ({"a": "x", "b": 2, "c": 1}, {"a", "b", "c"}),
    ],
)
def test_every_condition_has_to_hold(chosen: dict[str, Any], names: set[str]) -> None:
    assert {name for name, parameter in PARAMETERS.items() if applies(parameter, chosen)} == names


def test_contexts_are_all_combinations_of_what_applies() -> None:
    assert controlling(PARAMETERS) == {"a", "b", "c"}
    assert list(contexts(PARAMETERS, controlling(PARAMETERS))) == [
        {"a": "x", "b": 1},
        {"a": "x", "b": 2, "c": True},
        {"a": "x", "b": 2, "c": False},
        {"a": "y"},
    ]
