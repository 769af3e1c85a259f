"""`points_to_evaluate`: configurations that a search tries before its sampler's own, under the name that Ray Tune has for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from hvqray.config.conditions import applies, controlling
from hvqray.config.faults import Origin, first_fault, show
from hvqray.config.parameters import Choice, Domain, Parameter, same
from hvqray.config.run_config import build_run_config
from hvqray.config.sections import RunConfig
from hvqray.errors import did_you_mean

POINTS = "points_to_evaluate"


class StartingPoints:
    """Holds the points of a file against its parameters.

    A point names values of parameters; those that it leaves out are the sampler's. What `--set` did to a parameter counts before
    what a point in the file says of it, so that points stand in nobody's way.
    """

    def __init__(
        self, parameters: Mapping[str, Parameter], sections: Mapping[str, Any], origin: Origin
    ) -> None:
        self._parameters, self._sections, self._origin = parameters, sections, origin

    def resolve(self, points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The points with the values that a search will have, constants left out, in the order of the file's parameters.

        Raises:
            InputError: a point is empty or there twice, or has a value that its parameter, or every trial, cannot have.
        """
        resolved: list[dict[str, Any]] = []
        for index, point in enumerate(points):
            field = f"{POINTS}[{index}]"
            if not point:
                raise self._origin.fault(field, "is empty; name a parameter and its value, or remove it")
            if point in points[:index]:
                raise self._origin.fault(field, "is there twice; keep one")
            if (other := self._of_other_trials(point)) is not None:
                self._origin.warn(field, f"is left out, as {other} is fixed at another value")
                continue
            values = self._values(point, field)
            if values and values not in resolved:
                resolved.append(values)
        return resolved

    def _of_other_trials(self, point: Mapping[str, Any]) -> str | None:
        """What makes it a point of trials that the command line ruled out: a parameter on which others depend."""
        for name in controlling(self._parameters) & point.keys():
            domain = self._parameters[name].domain()
            if domain.is_constant and self._gives_way(name) and not same(domain.all_values()[0], point[name]):
                return name
        return None

    def _values(self, point: Mapping[str, Any], field: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        chosen: dict[str, Any] = {}
        for name in point:
            if name not in self._parameters and not self._gives_way(name):
                hint = did_you_mean(name, self._parameters)
                raise self._origin.fault(f"{field}.{name}", f"is no parameter of this file{hint}")
        complete = True
        decided: set[str] = set()  # whether they apply is known, and with what value
        for name, parameter in self._parameters.items():
            domain = parameter.domain()
            known = decided.issuperset(parameter.conditions)
            applied = applies(parameter, chosen)
            if known and not applied:
                self._check_not_named(name, point, chosen, field)
            elif domain.is_constant:
                self._check_constant(name, domain, point, field)
                if applied:
                    chosen[name] = domain.all_values()[0]
            elif name not in point or (value := self._value(name, domain, point[name], field)) is None:
                complete = known = False
            else:
                values[name] = value
                if applied:
                    chosen[name] = value
            if known:
                decided.add(name)
        if complete:
            self._check_together(chosen, field)
        return values

    def _gives_way(self, name: str) -> bool:
        """Whether the command line set the parameter, and not the points as well."""
        return self._origin.is_set(f"parameters.{name}") and not self._origin.is_set(POINTS)

    def _follows_what_gives_way(self, name: str) -> bool:
        """Whether the command line set the parameter, or one on which it depends, directly or not."""
        return self._gives_way(name) or any(
            map(self._follows_what_gives_way, self._parameters[name].conditions)
        )

    def _check_not_named(
        self, name: str, point: Mapping[str, Any], chosen: Mapping[str, Any], field: str
    ) -> None:
        if name not in point or self._follows_what_gives_way(name):
            return
        other = next(
            other
            for other, allowed in self._parameters[name].conditions.items()
            if other not in chosen or not any(same(chosen[other], value) for value in allowed)
        )
        where = f"{other} is {show(chosen[other])}" if other in chosen else f"{other} does not either"
        message = f"does not apply where {where}; remove it"
        raise self._origin.fault(f"{field}.{name}", message)

    def _check_constant(self, name: str, domain: Domain, point: Mapping[str, Any], field: str) -> None:
        (constant,) = domain.all_values()
        if name in point and not same(point[name], constant) and not self._gives_way(name):
            message = f"is {show(point[name])}, but the parameter is fixed at {show(constant)}; remove one of the two"
            raise self._origin.fault(f"{field}.{name}", message)

    def _value(self, name: str, domain: Domain, given: Any, field: str) -> Any:
        """The value as the search has it; None where the command line has left none, of which a warning tells."""
        if isinstance(domain, Choice):
            found = next((value for value in domain.values if same(value, given)), None)
            allowed = f"it takes {', '.join(show(value) for value in domain.values)}"
        else:
            inside = not isinstance(given, bool) and isinstance(given, (int, float))
            if inside and domain.step is None:
                inside = domain.low <= given <= domain.high
            elif inside:
                inside = domain.contains(given)
            found = domain.rounded(float(given)) if inside else None
            steps = "" if domain.step in (None, 1) else f" in steps of {domain.step:g}"
            allowed = f"it takes {domain.low:g} to {domain.high:g}{steps}"
        if found is None:
            if not self._gives_way(name):
                raise self._origin.fault(
                    f"{field}.{name}", f"is never {show(given)}; {allowed}; change it, or the parameter"
                )
            self._origin.warn(
                f"{field}.{name}", f"is never {show(given)} with --set ({allowed}): left to the sampler"
            )
        return found

    def _check_together(self, chosen: Mapping[str, Any], field: str) -> None:
        """A point that names all of a trial's parameters is a configuration."""
        try:
            build_run_config(self._sections, chosen)
        except ValidationError as error:
            path, message = first_fault(error, RunConfig)
            raise self._origin.fault(f"{field}.{path}", message) from None
