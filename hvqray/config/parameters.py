"""A searched parameter as the sweep file writes it (in W&B's form), and the domain of values that it stands for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeGuard

from pydantic import Field, field_validator, model_validator

from hvqray.config.faults import show
from hvqray.config.section import Section
from hvqray.errors import did_you_mean

_RANGES = {
    "uniform": (),
    "int_uniform": (),
    "q_uniform": ("q",),
    "log_uniform": (),
    "log_uniform_values": (),
    "q_log_uniform_values": ("q",),
}
_INSTEAD = {
    "inv_log_uniform": "log_uniform_values",
    "inv_log_uniform_values": "log_uniform_values",
    "q_log_uniform": "q_log_uniform_values",
    "normal": "uniform",
    "q_normal": "q_uniform",
    "log_normal": "log_uniform_values",
    "q_log_normal": "q_log_uniform_values",
    "beta": "uniform",
    "q_beta": "q_uniform",
    "categorical_w_probabilities": "categorical",
}


def same(left: Any, right: Any) -> bool:
    """Equality that tells `true` from `1`."""
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


@dataclass(frozen=True)
class Choice:
    """A few values without an order; a single one is a constant."""

    values: tuple[Any, ...]

    @property
    def is_constant(self) -> bool:
        return len(self.values) == 1

    def contains(self, value: Any) -> bool:
        return any(same(value, one) for one in self.values)

    def size(self) -> int:
        return len(self.values)

    def all_values(self) -> list[Any]:
        return list(self.values)

    def samples(self) -> list[Any]:
        return list(self.values)


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    """Whether values are spread evenly in their logarithm."""
    step: float | None = None
    """Values are multiples of it (as are both ends); None: every number."""
    integer: bool = False

    @property
    def is_constant(self) -> bool:
        return False

    def contains(self, value: Any) -> bool:
        """Whether a search can hit this very value (of a continuous range it never does)."""
        if self.step is None or not _is_number(value) or not self.low <= value <= self.high:
            return False
        return math.isclose(value / self.step, round(value / self.step), abs_tol=1e-9)

    def size(self) -> int | None:
        """How many values there are; None where they are infinitely many."""
        return None if self.step is None else round((self.high - self.low) / self.step) + 1

    def all_values(self) -> list[float]:
        """Every value, in order; only for a range of steps."""
        assert self.step is not None, "a continuous range cannot be listed"
        return [self.rounded(self.low + i * self.step) for i in range(self.size() or 0)]

    def samples(self) -> list[float]:
        """Values that stand for all: every one of up to 64, else both ends and the second."""
        size = self.size()
        if size is not None and size <= 64:
            return self.all_values()
        return (
            [self.low, self.high]
            if self.step is None
            else [self.low, self.rounded(self.low + self.step), self.high]
        )

    def rounded(self, value: float) -> float:
        """The nearest multiple of the step."""
        if self.step is None:
            return value
        multiple = round(value / self.step)
        # 12 digits drop the noise of binary fractions: 3 * 0.1 is to be 0.3.
        return multiple * int(self.step) if self.integer else float(f"{multiple * self.step:.12g}")


Domain = Choice | Range


class Parameter(Section):
    """One entry under `parameters`."""

    value: Any = None
    """The one value: a constant."""
    values: list[Any] | None = None
    """The values to choose from; lists are allowed (FSQ levels)."""
    min: int | float | None = None
    """Lower end of a range, included; for `log_uniform` its natural logarithm."""
    max: int | float | None = None
    """Upper end of a range, included; for `log_uniform` its natural logarithm."""
    distribution: str | None = None
    """How a range is searched; by default `int_uniform` between integers, else `uniform`."""
    q: int | float | None = None
    """Step of `q_uniform` and `q_log_uniform_values`; both ends must be multiples of it. 1 by default."""
    when: dict[str, Any] = Field(default={})
    """Earlier parameters and the value, or list of values, at which this one applies; all must hold."""

    @model_validator(mode="before")
    @classmethod
    def _no_probabilities(cls, data: Any) -> Any:
        if isinstance(data, dict) and "probabilities" in data:
            raise ValueError(
                "probabilities: is not supported (the sampler learns which values are good); remove it"
            )
        return data

    @field_validator("when")
    @classmethod
    def _some_condition(cls, when: dict[str, Any]) -> dict[str, Any]:
        empty = [name for name, allowed in when.items() if allowed == []]
        if empty:
            raise ValueError(f"{empty[0]}: the list of values is empty; name at least one")
        return when

    @model_validator(mode="after")
    def _one_form(self) -> Parameter:
        given = self.model_fields_set - {"when", "distribution"}
        if given == {"value"}:
            self._check_distribution("constant")
        elif given == {"values"}:
            self._check_distribution("categorical")
            self._check_values()
        elif {"min", "max"} <= given <= {"min", "max", "q"} and None not in (self.min, self.max):
            self._check_range()
        else:
            found = ", ".join(sorted(given)) or "nothing"
            raise ValueError(f"has {found}; give either value, or values, or both min and max")
        return self

    def _check_distribution(self, only: str) -> None:
        if self.distribution not in (None, only):
            raise ValueError(
                f"distribution: {show(self.distribution)} does not go with a list of values; remove it"
            )

    def _check_values(self) -> None:
        values = self.values or []
        if not values:
            raise ValueError("values: is empty; list at least one value")
        for i, value in enumerate(values):
            if any(value == earlier for earlier in values[:i]):
                raise ValueError(f"values: {show(value)} is listed twice; keep one")

    def _check_range(self) -> None:
        name = self._range_distribution()
        low, high = self.min, self.max
        if name not in _RANGES:
            if name in _INSTEAD:
                raise ValueError(f"distribution: {name} is not supported; use {_INSTEAD[name]}")
            raise ValueError(f"distribution: {show(name)} is unknown{did_you_mean(name, _RANGES)}")
        assert low is not None
        assert high is not None
        if not (_is_finite(low) and _is_finite(high)):
            raise ValueError(f"{show(low)} to {show(high)} is not a finite range; give finite ends")
        if low >= high:
            mend = "use value for a constant" if low == high else "swap them"
            raise ValueError(f"min {show(low)} is not below max {show(high)}; {mend}")
        if name.endswith("log_uniform_values") and low <= 0:
            raise ValueError(
                f"min {show(low)} is not above 0, which a logarithmic range needs; raise it or use uniform"
            )
        if name == "log_uniform":
            for key, end in (("min", low), ("max", high)):
                if abs(end) > 700:
                    what = "large" if end > 0 else "small"
                    raise ValueError(
                        f"{key} {show(end)} is an exponent (e^{key}) too {what}; use log_uniform_values for plain ends"
                    )
        if name == "int_uniform" and not (_is_int(low) and _is_int(high)):
            raise ValueError(f"{show(low)} to {show(high)}: int_uniform needs integer ends; use uniform")
        if self.q is not None and "q" not in _RANGES[name]:
            raise ValueError(
                f"q: {show(self.q)} has no effect with {name}; use q_uniform or q_log_uniform_values"
            )
        if "q" in _RANGES[name]:
            self._check_step(low, high, self.q if self.q is not None else 1)

    def _check_step(self, low: float, high: float, step: float) -> None:
        if not (step > 0 and _is_finite(step)):
            raise ValueError(f"q: {show(step)} is out of range; must be above 0")
        if max(abs(low), abs(high)) / step > 2**53:  # beyond, neighbours are the same float
            raise ValueError(f"q: {show(step)} is too small a step for {show(low)} to {show(high)}; raise it")
        for key, end in (("min", low), ("max", high)):
            if not math.isclose(end / step, round(end / step), abs_tol=1e-9):
                raise ValueError(f"{key} {show(end)} is not a multiple of q {show(step)}; move it to one")

    def _range_distribution(self) -> str:
        """W&B's default: `int_uniform` between integers, else `uniform`."""
        return self.distribution or ("int_uniform" if _is_int(self.min) and _is_int(self.max) else "uniform")

    @property
    def conditions(self) -> dict[str, list[Any]]:
        """`when`, with a list of allowed values for each earlier parameter."""
        return {
            name: allowed if isinstance(allowed, list) else [allowed] for name, allowed in self.when.items()
        }

    def domain(self) -> Domain:
        """The values that this parameter may take."""
        if "value" in self.model_fields_set:
            return Choice((self.value,))
        if self.values is not None:
            return Choice(tuple(self.values))
        assert self.min is not None
        assert self.max is not None
        step = self.q if self.q is not None else 1
        integer = _is_int(self.min) and _is_int(self.max)
        match self._range_distribution():
            case "int_uniform":
                return Range(self.min, self.max, step=1, integer=True)
            case "q_uniform":
                return Range(self.min, self.max, step=step, integer=integer and _is_int(step))
            case "q_log_uniform_values":
                return Range(self.min, self.max, log=True, step=step, integer=integer and _is_int(step))
            case "log_uniform":
                return Range(math.exp(self.min), math.exp(self.max), log=True)
            case "log_uniform_values":
                return Range(float(self.min), float(self.max), log=True)
            case _:
                return Range(float(self.min), float(self.max))


def _is_finite(value: float) -> bool:
    """Whether it is a finite number that a float holds, as whole numbers of any length may not."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
