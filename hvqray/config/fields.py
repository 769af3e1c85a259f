"""The fields of a run's configuration by their dotted paths, and dotted access to nested mappings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from hvqray.config.data_sections import DataConfig
from hvqray.config.model_sections import HvqConfig, SquadConfig
from hvqray.config.sections import TrainConfig

MODELS: dict[str, type[BaseModel]] = {"hvq": HvqConfig, "squad": SquadConfig}
DEFAULT_MODEL = "hvq"
SEARCHED_SECTIONS = ("model", "data", "train")


def fields_of(model_name: str) -> dict[str, Any]:
    """Dotted path to type annotation of every field that a parameter could set, for one model."""
    sections: dict[str, type[BaseModel]] = {
        "model": MODELS[model_name],
        "data": DataConfig,
        "train": TrainConfig,
    }
    return dict(pair for name, section in sections.items() for pair in _leaves(section, name))


def _leaves(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in section.model_fields.items():
        path = f"{prefix}.{field.alias or name}"
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            yield from _leaves(field.annotation, path)
        else:
            yield path, field.annotation


def is_integer(annotation: Any) -> bool:
    """Whether a field takes integers but no fractions."""
    kinds = set(_kinds(annotation))
    return int in kinds and float not in kinds


def _kinds(annotation: Any) -> Iterator[type]:
    if get_origin(annotation) is Literal:
        yield from (type(value) for value in get_args(annotation))
    elif inspect.isclass(annotation) and not get_args(annotation):
        yield annotation
    elif get_origin(annotation) is not list:
        for member in get_args(annotation):
            yield from _kinds(member)


def put(nested: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path, making the mappings on the way; raises TypeError where one is something else."""
    *parents, last = path.split(".")
    for depth, parent in enumerate(parents):
        if nested.get(parent) is None:
            nested[parent] = {}
        nested = nested[parent]
        if not isinstance(nested, dict):
            raise TypeError(".".join(parents[: depth + 1]))
    nested[last] = value


def paths(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of every leaf of nested mappings."""
    for key, value in nested.items():
        path = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping):
            yield from paths(value, path)
        else:
            yield path, value
