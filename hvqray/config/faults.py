"""What is wrong with a configuration, in one line: pydantic's errors turned into :class:`InputError`."""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from hvqray.errors import InputError, did_you_mean

_log = logging.getLogger("hvqray.config")

_KINDS = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text (put it in quotes)",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}
_BOUNDS = {
    "greater_than": ("gt", "must be above"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be below"),
    "less_than_equal": ("le", "must be at most"),
    "multiple_of": ("multiple_of", "must be a multiple of"),
}


@dataclass(frozen=True)
class Origin:
    """Where a configuration was written: a file, and dotted keys that options of the command line put in its place."""

    file: str
    overridden: Sequence[str] = ()
    """Keys given by `--set`."""
    data_root: bool = False
    """Whether `--data` was given."""

    @contextmanager
    def found_later(self) -> Iterator[None]:
        """Faults of the configuration that are raised within the block, where nobody knows of the file, name it.

        They are those with a field, a dotted name, and without a source.
        """
        try:
            yield
        except InputError as error:
            if error.source is not None or not re.fullmatch(r"[a-z_]+(\.\w+)*", error.field or ""):
                raise
            raise self.fault(str(error.field), error.message) from None

    def fault(self, field: str, message: str) -> InputError:
        """`FILE: FIELD: MESSAGE`, or `--set: ...` where the field was set on the command line."""
        return InputError(message, source=self._source(field), field=field)

    def warn(self, field: str, message: str) -> None:
        """Log a warning in the same form."""
        _log.warning("%s: %s: %s", self._source(field), field, message)

    def is_set(self, field: str) -> bool:
        """Whether `--set` gave the field, what holds it, or a part of it."""
        return any(
            field == key
            or field.startswith((f"{key}.", f"{key}["))
            or (key.startswith("parameters.") and key.startswith(f"{field}."))
            for key in self.overridden
        )

    def _source(self, field: str) -> str:
        if self.data_root and field == "data.root":
            return "--data"
        return "--set" if self.is_set(field) else self.file


def show(value: Any) -> str:
    """A value as YAML would have it, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def field_names(section: type[BaseModel]) -> list[str]:
    """The keys of a section as users write them."""
    return [field.alias or name for name, field in section.model_fields.items()]


def first_fault(error: ValidationError, root: type[BaseModel]) -> tuple[str, str]:
    """`(dotted field, message)` of the first fault that pydantic found in a `root`.

    A rule over several fields of a section begins with the one that it tells of, which is then a part of the field.
    """
    details = error.errors(include_url=False)
    field, _, ruled = _place(details[0]["loc"], root)
    messages = []
    for detail in details:
        here, section, _ = _place(detail["loc"], root)
        if here == field:  # the members of a union each tell their own
            messages.append(_message(dict(detail), section))
    message = "; or ".join(dict.fromkeys(messages))
    name, _, rest = message.partition(": ")
    if not field:  # a rule over several sections begins with the dotted one
        return name, rest
    if ruled and details[0]["type"] == "value_error" and name in field_names(ruled):
        return f"{field}.{name}", rest
    return field, message


def breaks_rule_of(error: ValidationError, root: type[BaseModel]) -> str | None:
    """The dotted section whose rule over several of its fields the first fault breaks; None where it is a single field's."""
    detail = error.errors(include_url=False)[0]
    place, _, ruled = _place(detail["loc"], root)
    return place if ruled and detail["type"] == "value_error" else None


def _place(
    loc: tuple[int | str, ...], root: type[BaseModel]
) -> tuple[str, type[BaseModel] | None, type[BaseModel] | None]:
    """The dotted field at pydantic's `loc` (without the tags of unions), the section that should hold it, and the section that
    it is itself, where it is one."""
    names: list[str] = []
    current: Any = root
    section: type[BaseModel] | None = None
    for part in loc:
        if _is_section(current):
            section = current
            names.append(str(part))
            fields = {field.alias or name: field for name, field in current.model_fields.items()}
            current = fields[str(part)].annotation if part in fields else None
        elif isinstance(part, int):
            names[-1] += f"[{part}]"
            current = next(iter(get_args(current)), None)
        elif get_origin(current) is dict:
            names.append(part)
            current = get_args(current)[1]
        else:
            current = next((member for member in get_args(current) if _has_tag(member, part)), None)
    return ".".join(names), section, current if _is_section(current) else None


def _is_section(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, BaseModel)


def _has_tag(member: Any, tag: str) -> bool:
    if not _is_section(member):
        return False
    literals = [f.annotation for f in member.model_fields.values() if get_origin(f.annotation) is Literal]
    return any(get_args(literal) == (tag,) for literal in literals)


def _message(detail: dict[str, Any], section: type[BaseModel] | None) -> str:
    kind, value, context = detail["type"], show(detail["input"]), detail.get("ctx", {})
    if kind == "extra_forbidden":
        return "unknown key" + did_you_mean(str(detail["loc"][-1]), field_names(section) if section else [])
    if kind == "missing":
        return "is missing; add it"
    if kind == "value_error":
        return str(context["error"])
    if kind in _KINDS:
        return f"{value} is not {_KINDS[kind]}"
    if kind in _BOUNDS:
        key, must = _BOUNDS[kind]
        return f"{value} is out of range; {must} {context[key]:.10g}"
    if kind in ("literal_error", "union_tag_invalid"):
        given = context.get("tag", detail["input"])
        expected = context.get("expected") or context["expected_tags"]
        choices = [choice.strip(" '") for choice in str(expected).replace(" or ", ",").split(",")]
        return f"{show(given)} is not one of {', '.join(choices)}" + _nearest(given, choices)
    if kind == "union_tag_not_found":
        return f"needs the key {context['discriminator']}"
    if kind == "too_short":
        return f"{value} is too short; give at least {context['min_length']}"
    if kind == "too_long":
        return f"{value} is too long; give at most {context['max_length']}"
    return f"{value}: {detail['msg']}"


def _nearest(given: Any, choices: list[str]) -> str:
    hint = did_you_mean(given, choices) if isinstance(given, str) else ""
    return hint if "did you mean" in hint else ""
