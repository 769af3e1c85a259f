"""The search space as Optuna sees it: parameters suggested one after another, where they apply."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import optuna

from hvqray.config.conditions import applies, contexts, controlling
from hvqray.config.parameters import Choice, Parameter, Range
from hvqray.errors import InputError


class SearchSpace:
    """A define-by-run space; plain pickle can carry it to where trials are suggested.

    Constants are not suggested. Optuna's choices are plain values, so a list is suggested as its JSON text and
    comes back as a list from :meth:`params`. A logarithmic range with a step is suggested as a real number and
    rounded in :meth:`params`, as W&B defines it; the study then holds the unrounded number. An `exhaustive` search takes every
    value of it once, so that it is suggested by its steps.
    """

    def __init__(self, parameters: Mapping[str, Parameter], *, exhaustive: bool = False) -> None:
        self._parameters = dict(parameters)
        self._exhaustive = exhaustive

    def __call__(self, trial: optuna.Trial | optuna.trial.FixedTrial) -> None:
        """Suggest every parameter that applies, in the order of the sweep file."""
        chosen: dict[str, Any] = {}
        for name, parameter in self._parameters.items():
            if applies(parameter, chosen):
                chosen[name] = _suggest(trial, name, self._suggested(parameter.domain()))

    def params(self, trial: optuna.Trial | optuna.trial.FrozenTrial) -> dict[str, Any]:
        """The dotted parameters of a suggested trial: those that apply, constants included, lists as lists.

        Raises:
            InputError: the trial has no value, or an impossible one, for a parameter: it belongs to another space.
        """
        chosen: dict[str, Any] = {}
        for name, parameter in self._parameters.items():
            domain = parameter.domain()
            if not applies(parameter, chosen):
                continue
            if domain.is_constant:
                chosen[name] = domain.all_values()[0]
            elif name in trial.params:
                chosen[name] = _decode(name, domain, trial.params[name])
            else:
                raise InputError(
                    f"trial {trial.number} has no {name}; the study belongs to another sweep file"
                )
        return chosen

    def suggested(self, params: Mapping[str, Any]) -> optuna.trial.FixedTrial:
        """A trial with the parameters and distributions that Optuna would have, had it suggested `params`: the inverse of
        :meth:`params`, but that of a logarithmic range with a step the number is the rounded one.

        Raises:
            ValueError: one of them is missing, or not in its range.
        """
        domains = self.searched()
        trial = optuna.trial.FixedTrial(
            {name: _encode(value) for name, value in params.items() if name in domains}
        )
        self(trial)
        return trial

    def fixed(self, point: Mapping[str, Any]) -> dict[str, bool | int | float | str | None]:
        """A point, as Optuna has to be told of it before it suggests a trial's parameters."""
        return {name: _encode(value) for name, value in point.items()}

    def grid_size(self) -> int | None:
        """How many different combinations there are, conditions considered; None where infinitely many."""
        if self.endless() is not None:
            return None
        names = controlling(self._parameters)
        return sum(
            math.prod(
                parameter.domain().size() or 1
                for name, parameter in self._parameters.items()
                if name not in names and applies(parameter, chosen)
            )
            for chosen in contexts(self._parameters, names)
        )

    def endless(self) -> str | None:
        """The first parameter that takes infinitely many values in some trial; None where there is none."""
        for chosen in contexts(self._parameters, controlling(self._parameters)):
            for name, parameter in self._parameters.items():
                if parameter.domain().size() is None and applies(parameter, chosen):
                    return name
        return None

    def _suggested(self, domain: Choice | Range) -> Choice | Range:
        if self._exhaustive and isinstance(domain, Range) and _is_rounded_log(domain):
            return replace(domain, log=False)
        return domain

    def searched(self) -> dict[str, Choice | Range]:
        """The domains of all parameters that are not constant."""
        domains = {name: parameter.domain() for name, parameter in self._parameters.items()}
        return {name: domain for name, domain in domains.items() if not domain.is_constant}

    def is_conditional(self) -> bool:
        """Whether some parameter is suggested in a part of the trials only; constants are in none."""
        searched = self.searched()
        suggested = {
            frozenset(name for name in searched if applies(self._parameters[name], chosen))
            for chosen in contexts(self._parameters, controlling(self._parameters))
        }
        return len(suggested) > 1


def _suggest(trial: optuna.Trial | optuna.trial.FixedTrial, name: str, domain: Choice | Range) -> Any:
    if domain.is_constant:
        return domain.all_values()[0]
    if isinstance(domain, Choice):
        return _decode(
            name, domain, trial.suggest_categorical(name, [_encode(value) for value in domain.values])
        )
    if _is_rounded_log(domain):
        return domain.rounded(trial.suggest_float(name, domain.low, domain.high, log=True))
    if domain.integer:
        return trial.suggest_int(
            name, int(domain.low), int(domain.high), step=int(domain.step or 1), log=domain.log
        )
    return domain.rounded(
        trial.suggest_float(name, domain.low, domain.high, step=domain.step, log=domain.log)
    )


def _is_rounded_log(domain: Range) -> bool:
    """Whether it is logarithmic with a step that Optuna has no distribution for: it knows a step of 1 between integers alone."""
    return domain.log and domain.step is not None and not (domain.integer and domain.step == 1)


def _encode(value: Any) -> bool | int | float | str | None:
    """A choice as a plain value that is the same in every process: lists as JSON text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return json.dumps(value, separators=(",", ":"))


def _decode(name: str, domain: Choice | Range, value: Any) -> Any:
    if isinstance(domain, Range):
        return domain.rounded(value)
    for choice in domain.values:
        if _encode(choice) == value:
            return choice
    raise InputError(
        f"{name}: the study's {value!r} is not among the values; it belongs to another sweep file"
    )
