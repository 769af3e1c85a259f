"""Which parameters apply: the meaning of `when`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from hvqray.config.parameters import Parameter, same


def applies(parameter: Parameter, chosen: Mapping[str, Any]) -> bool:
    """Whether every condition of `parameter` holds for the values chosen so far.

    A condition on a parameter that does not apply itself never holds.
    """
    return all(
        name in chosen and any(same(chosen[name], value) for value in allowed)
        for name, allowed in parameter.conditions.items()
    )


def controlling(parameters: Mapping[str, Parameter]) -> set[str]:
    """The parameters that some `when` names."""
    return {name for parameter in parameters.values() for name in parameter.conditions}


def contexts(parameters: Mapping[str, Parameter], names: Collection[str]) -> Iterator[dict[str, Any]]:
    """Every combination of values of the parameters in `names`, each holding only those that apply.

    `names` must include all controlling parameters, whose ranges must be finite.
    """
    ordered = [name for name in parameters if name in names]

    def extend(position: int, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if position == len(ordered):
            yield chosen
            return
        name = ordered[position]
        if not applies(parameters[name], chosen):
            yield from extend(position + 1, chosen)
            return
        for value in parameters[name].domain().all_values():
            yield from extend(position + 1, {**chosen, name: value})

    return extend(0, {})
