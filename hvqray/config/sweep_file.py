"""The sweep file: W&B's keys for a search, and this project's sections for what stays fixed.

Warnings (options without effect, parameters that never apply) go to the logger `hvqray.config`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from hvqray.config.conditions import applies, contexts, controlling
from hvqray.config.faults import Origin, first_fault, show
from hvqray.config.fields import MODELS, fields_of, is_integer
from hvqray.config.metric_names import class_fault, is_measured_on_pixels
from hvqray.config.overrides import apply_overrides, flatten_parameters
from hvqray.config.parameters import Parameter
from hvqray.config.run_config import build_run_config, make_paths_absolute, take_data_root
from hvqray.config.search_sections import EarlyTerminate, Metric
from hvqray.config.section import PositiveInt, Section
from hvqray.config.sections import BaselineChoice, ConfirmConfig, ResourcesConfig, RunConfig, TrainConfig
from hvqray.config.starting_points import POINTS, StartingPoints
from hvqray.config.sweep_checks import SpaceCheck
from hvqray.config.yaml_loader import dump_yaml, load_yaml
from hvqray.errors import InputError, counted

_SECTIONS = ("model", "data", "train", "resources", "confirm")
_WANDB_ONLY = ("program", "command", "controller", "job", "image_uri", "imageuri")


class SweepFile(Section):
    """A search, as resolved: overrides applied, everything checked."""

    name: str
    """Name of the sweep, and of its folder; by default the file's name without its ending."""
    description: str | None = None
    """Free text."""
    project: str = "hvqray"
    """W&B project."""
    entity: str | None = None
    """W&B entity (user or team); null means the default one."""
    method: str
    """`bayes`, `random`, `grid`, or the name of an Optuna sampler."""
    metric: list[Metric] = Field(min_length=1)
    """What to optimise; several metrics make a multi-objective search."""
    parameters: dict[str, Parameter] = Field(min_length=1)
    """What is searched, by the dotted path of the field it sets."""
    points_to_evaluate: list[dict[str, Any]] = Field(default=[])
    """Values of parameters, in a mapping each, that the search tries first; what one leaves out is the sampler's."""
    early_terminate: EarlyTerminate | None = Field(default=None, discriminator="type")
    """The rule that stops hopeless trials; null means none."""
    run_cap: PositiveInt | None = None
    """Number of trials; null means no limit but a grid's end or a time budget."""
    model: dict[str, Any] = Field(default={})
    """Fixed fields of the model."""
    data: dict[str, Any] = Field(default={})
    """Fixed fields of the data."""
    train: dict[str, Any] = Field(default={})
    """Fixed fields of the training."""
    resources: ResourcesConfig = ResourcesConfig()
    """What one trial takes."""
    confirm: ConfirmConfig = ConfirmConfig()
    """Retraining of the best configurations."""
    baselines: list[BaselineChoice] = Field(default=["padim", "patchcore"])
    """What the best model is held against on the same data; `no_quantizer` trains its configuration once more without one."""

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not names_a_folder(name):
            raise ValueError(
                f"{show(name)} cannot name a folder; use up to 100 letters, digits, '.', '_', '-', the first a letter or digit"
            )
        return name

    @field_validator("baselines")
    @classmethod
    def _each_once(cls, baselines: list[BaselineChoice]) -> list[BaselineChoice]:
        if len(set(baselines)) < len(baselines):
            raise ValueError(f"{show(baselines)} names a baseline twice; keep one")
        return baselines

    @field_validator("metric", mode="before")
    @classmethod
    def _listed(cls, metric: Any) -> Any:
        if isinstance(metric, str):
            raise ValueError(
                f"{show(metric)} lacks its goal; write {{name: {metric}, goal: maximize}}, or minimize"
            )
        return [metric] if isinstance(metric, dict) else metric

    @model_validator(mode="after")
    def _objectives(self) -> SweepFile:
        names = [metric.name for metric in self.metric]
        if len(set(names)) < len(names):
            raise ValueError("metric: the same metric is listed twice; keep one")
        if len(names) > 1 and self.early_terminate is not None:
            raise ValueError(
                "early_terminate: cannot rank trials by several metrics; remove it, or keep one metric"
            )
        if len(names) > 1 and any(metric.target is not None for metric in self.metric):
            raise ValueError("metric: target needs a single metric; remove it, or keep one metric")
        return self

    def sections(self) -> dict[str, Any]:
        """The fixed, partial sections of a run: model, data, train, resources."""
        resources = self.resources.model_dump(exclude_unset=True)
        return {"model": self.model, "data": self.data, "train": self.train, "resources": resources}

    def base_run_config(self) -> RunConfig:
        """The configuration with the first value (of a range: the lower end) of every parameter that applies."""
        chosen: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if applies(parameter, chosen):
                chosen[name] = parameter.domain().samples()[0]
        return build_run_config(self.sections(), chosen)

    def max_epochs(self) -> int:
        """Epochs of the longest trial."""
        return max(self._training_values("epochs"))

    def min_evaluate_every(self) -> int:
        """Epochs between evaluations of the trial that is evaluated most often."""
        return min(self._training_values("evaluate_every"))

    def _training_values(self, name: str) -> list[int]:
        """Values of an integer of `train` that stand for all that trials have: searched ones, and its own where a `when` fails."""
        own = int(self.train.get(name, getattr(TrainConfig(), name)))
        parameter = self.parameters.get(f"train.{name}")
        if parameter is None:
            return [own]
        chosen = contexts(self.parameters, controlling(self.parameters))
        applied = {applies(parameter, each) for each in chosen}
        searched = [int(value) for value in parameter.domain().samples()] if True in applied else []
        return [*searched, own] if False in applied else searched

    def to_yaml(self) -> str:
        """Text that :func:`load_sweep` reads back as the same sweep."""
        content: dict[str, Any] = {
            "name": self.name,
            "description": self.description,
            "project": self.project,
        }
        content |= {"entity": self.entity, "method": self.method}
        content["metric"] = [metric.model_dump(exclude_none=True) for metric in self.metric]
        content["parameters"] = {
            name: one.model_dump(exclude_unset=True) for name, one in self.parameters.items()
        }
        content[POINTS] = self.points_to_evaluate or None
        if self.early_terminate is not None:
            content["early_terminate"] = self.early_terminate.model_dump(exclude_none=True)
        content["run_cap"] = self.run_cap
        content |= self.sections() | {"confirm": self.confirm.model_dump(exclude_unset=True)}
        if "baselines" in self.model_fields_set:
            content["baselines"] = self.baselines
        return dump_yaml({key: value for key, value in content.items() if value is not None and value != {}})


def names_a_folder(name: str) -> bool:
    """Whether a sweep may be called so."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) is not None


def load_sweep(
    path: str | Path,
    overrides: Sequence[str] = (),
    num_trials: int | None = None,
    data_root: str | None = None,
) -> SweepFile:
    """Read, override and check a sweep file.

    Args:
        path: the YAML file.
        overrides: `--set` texts, `key=value` with dotted keys, applied in order.
        num_trials: takes the place of `run_cap`.
        data_root: takes the place of `data.root`; relative to the current directory, as that one is.

    Raises:
        InputError: anything in the file or the overrides is unknown, of the wrong type or impossible.
    """
    raw = load_yaml(path)
    for key in raw:
        if key in _WANDB_ONLY:
            raise InputError(
                "has no meaning here, as hvqray runs its own training; remove it", source=str(path), field=key
            )
    raw["parameters"] = flatten_parameters(raw.get("parameters"), source=str(path))
    touched = apply_overrides(raw, overrides, top_level=list(SweepFile.model_fields))
    for section in _SECTIONS:
        if section in raw and raw[section] is None:
            raw[section] = {}
    if POINTS in raw and raw[POINTS] is None:
        raw[POINTS] = []
    if num_trials is not None:
        if num_trials < 1:
            raise InputError(f"{num_trials} is out of range; must be at least 1", source="--num-trials")
        raw["run_cap"] = num_trials
    take_data_root(raw, data_root)
    raw.setdefault("name", Path(path).stem)

    origin = Origin(str(path), touched, data_root is not None)
    with origin.found_later():
        make_paths_absolute(raw, raw["parameters"], raw.get(POINTS))
    try:
        sweep = SweepFile.model_validate(
            {**raw, "parameters": _integer_ranges(raw["parameters"])}, strict=True
        )
    except ValidationError as error:
        field, message = first_fault(error, SweepFile)
        if isinstance(raw.get("metric"), dict):
            field = field.replace("metric[0]", "metric")
        raise (origin.fault(field, message) if field else InputError(message, source=str(path))) from None
    SpaceCheck(sweep.parameters, sweep.sections(), origin).check_all()
    _check_early_terminate(sweep, origin)
    points = StartingPoints(sweep.parameters, sweep.sections(), origin).resolve(sweep.points_to_evaluate)
    sweep = sweep.model_copy(update={POINTS: points})
    _warn_of_other_keys(sweep, origin)
    return sweep


def _integer_ranges(parameters: dict[str, Any]) -> dict[str, Any]:
    """`log_uniform_values` between integers, of a field that takes integers, searches integers."""
    annotations: dict[str, Any] = {path: kind for model in MODELS for path, kind in fields_of(model).items()}
    resolved = {}
    for name, entry in parameters.items():
        ends = [type(entry.get(key)) for key in ("min", "max")]
        if (
            entry.get("distribution") == "log_uniform_values"
            and ends == [int, int]
            and is_integer(annotations.get(name))
        ):
            entry = {**entry, "distribution": "q_log_uniform_values", "q": entry.get("q", 1)}
        resolved[name] = entry
    return resolved


def _check_early_terminate(sweep: SweepFile, origin: Origin) -> None:
    """Early stopping needs an evaluation at or after its first rung, and before the last epoch of the longest trial."""
    if sweep.early_terminate is None:
        return
    rung, epochs, every = sweep.early_terminate.first_rung(), sweep.max_epochs(), sweep.min_evaluate_every()
    if rung > epochs:
        message = f"its first rung, epoch {rung}, lies beyond the {epochs} epochs of a trial; lower min_iter, or remove it"
        raise origin.fault("early_terminate", message)
    if math.ceil(rung / every) * every >= epochs:
        message = f"can stop no trial before its last epoch, {epochs}: the first rung is epoch {rung}, and train.evaluate_every"
        mend = "lower min_iter or evaluate_every, or remove early_terminate (null)"
        raise origin.fault("early_terminate", f"{message} is {every}; {mend}")


def _warn_of_other_keys(sweep: SweepFile, origin: Origin) -> None:
    """Log a warning for options that other keys of the file leave without effect."""
    if sweep.confirm.top_k == 0 and "seeds" in sweep.confirm.model_fields_set:
        origin.warn("confirm.seeds", "has no effect where confirm.top_k is 0; remove it")
    if sweep.run_cap is not None and (number := len(sweep.points_to_evaluate)) > sweep.run_cap:
        origin.warn(
            POINTS,
            f"the last {counted(number - sweep.run_cap, 'point')} of {number} are not tried, as there are no more trials",
        )
    metric = sweep.metric[0].name
    if is_measured_on_pixels(metric):
        text = f"has no effect, as {metric} decides and is measured at every evaluation; remove it"
        if sweep.train.get("pixel_metrics") == "last":
            origin.warn("train.pixel_metrics", f'"last" {text}')
        elif "train.pixel_metrics" in sweep.parameters:
            origin.warn("parameters.train.pixel_metrics", text)


def check_metric_classes(sweep: SweepFile, class_names: Iterable[str]) -> None:
    """Raise InputError where a metric speaks of a class that the dataset does not have."""
    known = list(class_names)
    for metric in sweep.metric:
        if fault := class_fault(metric.name, known):
            raise InputError(f"{metric.name!r}: {fault}", field="metric.name")


def resolve_run_config(sweep: SweepFile, params: Mapping[str, Any]) -> RunConfig:
    """The configuration of one trial: the fixed sections with the trial's parameters (dotted names) put in.

    Raises:
        InputError: the parameters do not go together (pairs of values were checked at load, triples were not).
    """
    try:
        return build_run_config(sweep.sections(), params)
    except ValidationError as error:
        field, message = first_fault(error, RunConfig)
        raise InputError(message, source=f"sweep {sweep.name}", field=field) from None
