"""`--set key=value`: changes to a configuration on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hvqray.config.faults import Origin, show
from hvqray.config.fields import put
from hvqray.config.parameters import Parameter
from hvqray.config.yaml_loader import parse_yaml
from hvqray.errors import InputError, did_you_mean


def parse_override(text: str) -> tuple[str, Any]:
    """`("train.lr", 0.001)` of `"train.lr=1e-3"`; the value is read as YAML.

    Raises:
        InputError: there is no `=`, no key, no value, or the value is no YAML.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise InputError(f"{show(text)} is not of the form key=value", source="--set")
    if not value.strip():
        raise InputError("has no value; write null for none", source="--set", field=key)
    return key, parse_yaml(value, source=f"--set {key}")


def origin_of(path: str | Path, overrides: Sequence[str], data_root: str | None) -> Origin:
    """Where the fields of a file that was loaded with these options were written, for faults that are found later."""
    return Origin(str(path), [parse_override(text)[0] for text in overrides], data_root is not None)


def override_text(key: str, value: Any) -> str:
    """The `--set` text that sets `key` to `value`, of plain values: quoted where YAML would take it for something else."""
    plain = f"{key}={value}"
    try:
        if isinstance(value, str) and parse_override(plain) == (key, value):
            return plain
    except InputError:
        pass
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def flatten_parameters(raw: Any, *, source: str) -> dict[str, Any]:
    """The entries under `parameters`, W&B's nested `parameters` turned into dotted names.

    Raises:
        InputError: an entry is no mapping, a nested group carries other keys, or a name appears twice.
    """
    flat: dict[str, Any] = {}

    def visit(entries: Any, prefix: str, place: str) -> None:
        if not isinstance(entries, dict):
            raise InputError(
                f"{show(entries)} is not a mapping of keys to values", source=source, field=place
            )
        for key, entry in entries.items():
            name = f"{prefix}{key}"
            if not isinstance(entry, dict):
                mend = f"write {{value: {show(entry)}}} or {{values: [...]}}"
                raise InputError(
                    f"{show(entry)} is not a mapping; {mend}", source=source, field=f"parameters.{name}"
                )
            if "parameters" in entry:
                if len(entry) > 1:
                    other = next(key for key in entry if key != "parameters")
                    message = f"{other!r} cannot stand beside nested parameters; move it into each of them"
                    raise InputError(message, source=source, field=f"parameters.{name}")
                visit(entry["parameters"], f"{name}.", f"parameters.{name}.parameters")
            elif name in flat:
                raise InputError(
                    "appears twice, once nested; keep one", source=source, field=f"parameters.{name}"
                )
            else:
                flat[name] = entry

    visit({} if raw is None else raw, "", "parameters")
    return flat


def apply_overrides(
    raw: dict[str, Any], overrides: Sequence[str], *, top_level: Sequence[str]
) -> tuple[str, ...]:
    """Apply `--set` texts to a file's content, in place and in order; returns the dotted keys that they set.

    A key that names a parameter of the search fixes it to the value (its `when` stays). `parameters.NAME.KEY`
    changes one key of a parameter, whose name may hold dots; a parameter that is new takes the place of the fixed
    field. Every other key is a path into the file. Where `parameters` is a key of the file at all, `raw` holds them
    flattened.

    Raises:
        InputError: a text is malformed, or its key leads nowhere.
    """
    touched = []
    for text in overrides:
        key, value = parse_override(text)
        parameters = raw["parameters"] if "parameters" in top_level else {}
        before = set(parameters)
        first, _, rest = key.partition(".")
        if key in parameters:
            when = {"when": parameters[key]["when"]} if "when" in parameters[key] else {}
            parameters[key] = {"value": value, **when}
            touched.append(f"parameters.{key}")
        elif key == "parameters" and key in top_level:
            raw[key] = flatten_parameters(value, source="--set")
            _unfix(raw, raw[key])
            touched.append(key)
        elif first == "parameters" and first in top_level:
            touched.append(_override_parameter(parameters, rest, value))
            _unfix(raw, parameters.keys() - before)
        elif first in top_level:
            try:
                put(raw, key, value)
            except TypeError as error:
                raise InputError(
                    f"{error} is not a mapping; set it as a whole", source="--set", field=key
                ) from None
            touched.append(key)
        else:
            raise InputError(f"unknown key{did_you_mean(first, top_level)}", source="--set", field=key)
    return tuple(touched)


def _override_parameter(parameters: dict[str, Any], path: str, value: Any) -> str:
    """Set `NAME` to a whole entry, or one key of it; returns `parameters.NAME` or `parameters.NAME.KEY`."""
    keys = list(Parameter.model_fields)
    name, _, key = path.rpartition(".")
    if not name and key in keys:
        raise InputError(
            f"names no parameter; write parameters.NAME.{key}", source="--set", field=f"parameters.{path}"
        )
    if path in parameters or key not in keys:
        if not isinstance(value, dict):
            mend = (
                f"write --set {path}={show(value)} to fix it"
                if path in parameters
                else did_you_mean(key, keys)[2:]
            )
            raise InputError(
                f"{show(value)} is not a parameter; {mend}", source="--set", field=f"parameters.{path}"
            )
        parameters |= flatten_parameters({path: value}, source="--set")
    else:
        parameters.setdefault(name, {})[key] = value
    return f"parameters.{path}"


def _unfix(raw: dict[str, Any], names: Iterable[str]) -> None:
    """Remove the fixed values of fields that are searched from now on."""
    for name in names:
        *parents, last = name.split(".")
        section: Any = raw
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section.pop(last, None)
