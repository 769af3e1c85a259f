"""One run's configuration: built, read from a file, written, and hashed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hvqray.atomic import expanded
from hvqray.config.effects import without_effect
from hvqray.config.faults import Origin, first_fault
from hvqray.config.fields import DEFAULT_MODEL, paths, put
from hvqray.config.overrides import apply_overrides
from hvqray.config.sections import RunConfig
from hvqray.config.yaml_loader import dump_yaml, load_yaml
from hvqray.errors import InputError

WEIGHTS = "data.backbone.weights"


def build_run_config(sections: Mapping[str, Any], params: Mapping[str, Any]) -> RunConfig:
    """The sections (partial mappings) with the parameters (dotted names) put in; raises pydantic's ValidationError.

    Types are taken strictly: `"8"`, `8.0` and `true` are no integers.
    """
    return RunConfig.model_validate(merged_sections(sections, params), strict=True)


def merged_sections(sections: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """The sections with the parameters put in, as they are: not checked."""
    merged = deepcopy(dict(sections))
    for name, value in params.items():
        put(merged, name, value)
    merged["model"] = {"name": DEFAULT_MODEL, **(merged.get("model") or {})}
    return merged


def absolute_root(root: str) -> str:
    """The absolute path of a dataset's folder. Raises InputError for an empty text, which would be the current directory."""
    if not root:
        raise InputError("is empty; name a folder, or leave it out for the synthetic set", field="data.root")
    return _absolute(root)


def take_data_root(sections: dict[str, Any], data_root: str | None) -> None:
    """Put a `--data` that was given in the place of `data.root`, in place; a `data` that is no mapping is told of later."""
    data = sections.get("data", {})
    if data_root is not None and isinstance(data, dict):
        sections["data"] = {**data, "root": data_root}


def make_paths_absolute(
    sections: dict[str, Any], parameters: Mapping[str, Any] | None = None, points: Any = None
) -> None:
    """Make relative paths absolute, in place: trials and worker processes run in other folders.

    These are `data.root` and a file of `data.backbone.weights`, where that is searched also its values, those at which
    other parameters apply, and those in points to evaluate. What is of the wrong type is left to the checks of types.
    """
    data = sections.get("data")
    if isinstance(data, dict):
        if isinstance(data.get("root"), str):
            data["root"] = absolute_root(data["root"])
        _replace(data.get("backbone"), "weights")
    for name, entry in (parameters or {}).items():
        if name == WEIGHTS:
            _replace(entry, "value")
            _replace(entry, "values")
        if isinstance(entry, dict):
            _replace(entry.get("when"), WEIGHTS)
    for point in points if isinstance(points, list) else []:
        _replace(point, WEIGHTS)


def _replace(holder: Any, key: str) -> None:
    """Make the file, or the files in the list, at `key` absolute."""
    if isinstance(holder, dict) and key in holder:
        value = holder[key]
        holder[key] = (
            [_absolute_file(one) for one in value] if isinstance(value, list) else _absolute_file(value)
        )


def _absolute_file(weights: Any) -> Any:
    """A name such as `auto`, or a misspelt one, has no suffix and stays."""
    is_file = isinstance(weights, str) and Path(weights).suffix
    return _absolute(weights) if is_file else weights


def _absolute(path: str) -> str:
    """Without `..`, but where that would name another place: after a symbolic link it is not one level up in the text."""
    given = expanded(path).absolute()
    tidy = os.path.normpath(given)
    return tidy if os.path.realpath(tidy) == os.path.realpath(given) else str(given)


def load_run_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    data_root: str | None = None,
    *,
    by_hand: bool = False,
) -> RunConfig:
    """The configuration in a YAML file of the sections model, data, train and resources, with `--set` applied.

    `data_root` takes the place of `data.root`. Relative paths are relative to the current directory.

    In a file that a user wrote (`by_hand`) options without effect are warned of; files that this package wrote hold every field.

    Raises:
        InputError: the file cannot be read, or a field is unknown or invalid.
    """
    raw = load_yaml(path)
    if "parameters" in raw:
        message = "makes this a sweep file; run it with hvqray.sweep, or remove it"
        raise InputError(message, source=str(path), field="parameters")
    touched = apply_overrides(raw, overrides, top_level=list(RunConfig.model_fields))
    sections = {name: {} if content is None else content for name, content in raw.items()}
    take_data_root(sections, data_root)
    origin = Origin(str(path), touched, data_root is not None)
    with origin.found_later():
        make_paths_absolute(sections)
    if not isinstance(sections.get("model", {}), dict):
        raise origin.fault("model", "is not a mapping of keys to values")
    try:
        config = build_run_config(sections, {})
    except ValidationError as error:
        raise origin.fault(*first_fault(error, RunConfig)) from None
    if by_hand:
        _warn_of_options_without_effect(config, origin)
    return config


def _warn_of_options_without_effect(config: RunConfig, origin: Origin) -> None:
    """Log a warning for each, but not for defaults, which a copy of a written configuration holds too."""
    values = dict(paths(run_config_dict(config)))
    defaults = dict(paths(run_config_dict(RunConfig.model_validate({"model": {"name": config.model.name}}))))
    told = set()
    for effect in without_effect(values):
        if values[effect.field] != defaults[effect.field] and effect.field not in told:
            told.add(effect.field)
            origin.warn(effect.field, f"has no effect where {effect.told(values)}; remove it")


def run_config_dict(config: RunConfig) -> dict[str, Any]:
    """Every field, defaults included, as a mapping of plain JSON values."""
    return config.model_dump(mode="json", by_alias=True)


def run_config_yaml(config: RunConfig) -> str:
    """Text that :func:`load_run_config` reads back as the same configuration."""
    return dump_yaml(run_config_dict(config))


def config_hash(config: RunConfig) -> str:
    """12 hexadecimal digits that name a configuration; `resources` do not count, as they change no result."""
    content = run_config_dict(config)
    del content["resources"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
