"""What can be known to be wrong with a search space before anything starts."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from itertools import combinations, product
from typing import Any

from pydantic import ValidationError

from hvqray.config.conditions import applies, contexts, controlling
from hvqray.config.effects import GATES, without_effect
from hvqray.config.faults import Origin, breaks_rule_of, first_fault, show
from hvqray.config.fields import DEFAULT_MODEL, MODELS, fields_of, is_integer, paths
from hvqray.config.parameters import Domain, Parameter, Range
from hvqray.config.run_config import build_run_config, run_config_dict
from hvqray.config.sections import RunConfig
from hvqray.errors import InputError, did_you_mean

_log = logging.getLogger("hvqray.config")

_NOT_SEARCHABLE = {
    "resources": "say what a trial takes, not what it computes; set them under `resources`",
    "confirm": "come after the search; set them under `confirm`",
    "baselines": "come after the search; list them under `baselines`",
    "data.root": "must be the same for all trials; set it under `data` or with --data",
    "data.layout": "must be the same for all trials; set it under `data`",
    "data.classes": "must be the same for all trials, whose metrics are compared; set it under `data`",
    "data.bit_depth": "are those of the camera, the same for all trials; set it under `data`",
    "data.validation": "must be the same for all trials, whose metrics are compared; set it under `data`",
}


class SpaceCheck:
    """The parameters of a search beside the fixed sections; each method checks one kind of fault.

    Raises:
        InputError: from every method, with the first fault found.
    """

    def __init__(
        self, parameters: Mapping[str, Parameter], sections: Mapping[str, Any], origin: Origin
    ) -> None:
        self._parameters = parameters
        self._sections = sections
        self._origin = origin
        self._fixed = dict(paths(sections))

    def check_all(self) -> None:
        """Every check, in the order in which they build on each other; then warn of options without effect."""
        self.check_names()
        self.check_conditions()
        self.check_models()
        self.check_values()
        self.warn_of_integer_steps()
        self.warn_of_options_without_effect()

    def _model_names(self) -> list[str]:
        if "model.name" in self._parameters:
            names: list[Any] = list(self._parameters["model.name"].domain().samples())
        else:
            names = [self._fixed.get("model.name", DEFAULT_MODEL)]
        for name in names:
            if not isinstance(name, str) or name not in MODELS:
                field = "parameters.model.name" if "model.name" in self._parameters else "model.name"
                known = did_you_mean(name, MODELS) if isinstance(name, str) else did_you_mean("", MODELS)
                raise self._origin.fault(field, f"{show(name)} is no model{known}")
        return names

    def check_names(self) -> None:
        """Every parameter names a searchable field of some model, and none is fixed as well."""
        model_names = self._model_names()
        everywhere = {path for model in MODELS for path in fields_of(model)}
        for name, parameter in self._parameters.items():
            field = f"parameters.{name}"
            for prefix, reason in _NOT_SEARCHABLE.items():
                if name == prefix or name.startswith(f"{prefix}."):
                    raise self._origin.fault(field, f"{prefix} cannot be searched: its values {reason}")
            if name not in everywhere:
                raise self._origin.fault(field, f"unknown parameter{did_you_mean(name, everywhere)}")
            if not parameter.when and not any(name in fields_of(model) for model in model_names):
                message = f"applies to no model here (model.name is {' or '.join(model_names)}); remove it"
                raise self._origin.fault(field, message)
            for path, value in self._fixed.items():
                if path == name or path.startswith(f"{name}."):
                    raise self._origin.fault(field, f"is also fixed at {show(value)}; keep one of the two")
                if name.startswith(f"{path}."):
                    raise self._origin.fault(path, f"{show(value)} is not a mapping of keys to values")

    def check_conditions(self) -> None:
        """Every `when` names earlier parameters, and values that they take."""
        earlier: dict[str, Parameter] = {}
        for name, parameter in self._parameters.items():
            for other, allowed in parameter.conditions.items():
                self._check_condition(name, other, allowed, earlier)
            earlier[name] = parameter

    def _check_condition(
        self, name: str, other: str, allowed: list[Any], earlier: Mapping[str, Parameter]
    ) -> None:
        field = f"parameters.{name}.when"
        if other not in earlier:
            if other == name:
                raise self._origin.fault(field, f"{other} is the parameter itself; name another one")
            if other in self._parameters:
                raise self._origin.fault(field, f"{other} comes later; move it above {name}")
            if other in self._fixed:
                raise self._origin.fault(
                    field, f"{other} is fixed at {show(self._fixed[other])}; remove the condition"
                )
            hint = did_you_mean(other, earlier) or "; parameters of this file only"
            raise self._origin.fault(field, f"{other} is no parameter of this file{hint}")
        domain = earlier[other].domain()
        if domain.size() is None:
            raise self._origin.fault(
                field, f"{other} is a continuous range, which hits no single value; use values or q"
            )
        for value in allowed:
            # A constant may be one because --set fixed it, so that other values are no mistake.
            if not domain.contains(value) and not domain.is_constant:
                taken = ", ".join(show(one) for one in domain.samples())
                raise self._origin.fault(field, f"{other} is never {show(value)}; it takes {taken}")

    def check_models(self) -> None:
        """Wherever a parameter or a fixed field of `model` applies, the chosen model has it."""
        names = controlling(self._parameters) | {"model.name"}
        for chosen in contexts(self._parameters, names):
            model = chosen.get("model.name", self._fixed.get("model.name", DEFAULT_MODEL))
            known = fields_of(model)
            for name, parameter in self._parameters.items():
                if name not in known and applies(parameter, chosen):
                    owner = next(owner for owner in MODELS if name in fields_of(owner))
                    message = f"{model} has no such field; add `when: {{model.name: {owner}}}`"
                    raise self._origin.fault(f"parameters.{name}", message)
            for path in self._fixed:
                owner = next((owner for owner in MODELS if path in fields_of(owner)), model)
                if path not in known and owner != model and "model.name" in self._parameters:
                    mend = f"move it to parameters, with `value` and `when: {{model.name: {owner}}}`"
                    raise self._origin.fault(
                        path, f"{model}, which model.name may be, has no such field; {mend}"
                    )

    def check_values(self) -> None:
        """Every listed value and every end of a range is valid, alone and beside every value of another parameter."""
        applied: set[str] = set()
        for chosen in contexts(self._parameters, controlling(self._parameters) | {"model.name"}):
            active = {name: self._samples(name, chosen) for name in self._active(chosen)}
            applied |= set(active)
            for params in _covering_pairs(active):
                try:
                    build_run_config(self._sections, params)
                except ValidationError as error:
                    raise self._fault(error, params) from None
        never = [name for name in self._parameters if name not in applied]
        for name in never:
            if not self._follows_constant(name):
                raise self._origin.fault(
                    f"parameters.{name}.when", "never holds, whatever is chosen; change or remove it"
                )
        if never:
            _log.warning(
                "%s: parameters: %s: never apply, as what their `when` names is fixed",
                self._origin.file,
                ", ".join(never),
            )

    def _active(self, chosen: Mapping[str, Any]) -> list[str]:
        return [
            name
            for name, parameter in self._parameters.items()
            if name in chosen or applies(parameter, chosen)
        ]

    def _samples(self, name: str, chosen: Mapping[str, Any]) -> list[Any]:
        return [chosen[name]] if name in chosen else self._parameters[name].domain().samples()

    def _is_set(self, name: str) -> bool:
        """Whether the command line gave the field, fixed or searched."""
        return self._origin.is_set(name) or self._origin.is_set(f"parameters.{name}")

    def _domain(self, name: str) -> Domain | None:
        return self._parameters[name].domain() if name in self._parameters else None

    def _follows_constant(self, name: str) -> bool:
        """Whether a constant stands among what the parameter depends on, directly or not."""
        return any(
            self._parameters[other].domain().is_constant or self._follows_constant(other)
            for other in self._parameters[name].conditions
        )

    def _fault(self, error: ValidationError, params: Mapping[str, Any]) -> InputError:
        field, message = first_fault(error, RunConfig)
        path = field.partition("[")[0]
        section = breaks_rule_of(error, RunConfig)
        told = {f"{section}.{word}" for word in re.findall(r"\w+", message)} | {path}
        if section in RunConfig.model_fields and not told.isdisjoint(params):  # not of two fixed fields
            message += "; change one, or make one parameter depend on the other with `when`"
        if path in params:
            message = f"{message} (in {show(params[path])})" if "[" in field else message
            return self._origin.fault(f"parameters.{path}", message)
        return self._origin.fault(field, message)

    def warn_of_integer_steps(self) -> None:
        """Log a warning where integer ends make a range of integers (W&B's rule) of a field that takes fractions."""
        annotations = {path: kind for model in MODELS for path, kind in fields_of(model).items()}
        for name, parameter in self._parameters.items():
            whole = isinstance(parameter.min, int) and isinstance(parameter.max, int)
            if whole and parameter.distribution is None and not is_integer(annotations[name]):
                mend = f"write min: {parameter.min}.0 for fractions, or distribution: int_uniform if meant"
                self._origin.warn(f"parameters.{name}", f"searches integers only; {mend}")

    def warn_of_options_without_effect(self) -> None:
        """Log a warning for every fixed option that has no effect, and every parameter searched where it has none."""
        useless: dict[str, str] = {}
        useful: set[str] = set()
        unlisted = {name for name in GATES if isinstance(self._domain(name), Range)}
        names = controlling(self._parameters) | (GATES - unlisted) | {"model.name"}
        for chosen in contexts(self._parameters, names):
            params = {name: self._samples(name, chosen)[0] for name in self._active(chosen)}
            try:
                config = dict(paths(run_config_dict(build_run_config(self._sections, params))))
            except ValidationError:  # three parameters that do not go together; the trial will tell
                continue
            here = {}
            for effect in without_effect(config, searched=self._parameters):
                if not unlisted.isdisjoint(effect.gates()):
                    continue
                searched = [
                    gate
                    for gate in effect.gates()
                    if (domain := self._domain(gate)) and not domain.is_constant
                ]
                if len(searched) > 1 and effect.field in self._parameters:
                    continue  # no `when` says "either"
                mend = "; remove it"
                if searched:
                    single = effect.condition and not isinstance(config[effect.gate], list)
                    when = f"`when: {effect.condition}`" if single else f"a `when` that names {searched[0]}"
                    mend = f"; add {when}"
                elif any(map(self._is_set, effect.gates())) and not self._is_set(effect.field):
                    mend = ""  # the file is right without what was set
                here[effect.field] = f"has no effect where {effect.told(config)}{mend}"
            useful |= config.keys() - here.keys()
            useless.update(
                {path: text for path, text in here.items() if path in self._fixed or path in params}
            )
        for path, text in useless.items():
            if path in self._parameters:
                self._origin.warn(f"parameters.{path}", text)
            elif path not in useful:
                self._origin.warn(path, text)


def _covering_pairs(samples: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Choices in which every value of every parameter appears, and every pair of values of two parameters.

    Of two in different sections, which few rules compare, long ranges are paired at their ends only. Single values come
    first, so that a value wrong in itself is told as such.
    """
    first = {name: values[0] for name, values in samples.items()}
    yield first
    for name, values in samples.items():
        for value in values[1:]:
            yield {**first, name: value}
    for (one, its), (other, others) in combinations(samples.items(), 2):
        if one.partition(".")[0] != other.partition(".")[0]:
            its, others = _ends(its), _ends(others)
        for value, other_value in product(its[1:], others[1:]):
            yield {**first, one: value, other: other_value}


def _ends(values: list[Any]) -> list[Any]:
    return values if len(values) <= 16 else [values[0], values[-1]]
