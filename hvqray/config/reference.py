"""The reference table of all sections' fields, generated from their types and docstrings."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hvqray.config.data_sections import DataConfig
from hvqray.config.model_sections import HvqConfig, SquadConfig
from hvqray.config.sections import ConfirmConfig, ResourcesConfig, TrainConfig

MARKER = "<!-- Generated: `python -m hvqray.config.reference docs/sweep-file.md` rewrites what follows. -->"

_SECTIONS: dict[str, type[BaseModel]] = {
    "`model`, with `name: hvq`": HvqConfig,
    "`model`, with `name: squad`": SquadConfig,
    "`data`": DataConfig,
    "`train`": TrainConfig,
    "`resources`": ResourcesConfig,
    "`confirm`": ConfirmConfig,
}
_KINDS = {
    "integer": "integer",
    "number": "number",
    "string": "text",
    "boolean": "`true`, `false`",
    "null": "`null`",
}
_BOUNDS = {"exclusiveMinimum": "> {}", "minimum": "≥ {}", "exclusiveMaximum": "< {}", "maximum": "≤ {}"}


def fields_markdown() -> str:
    """Markdown: a table a section, a row a field, with its values, default and meaning."""
    parts = []
    for title, section in _SECTIONS.items():
        doc = (inspect.getdoc(section) or "").replace("\n", " ")
        parts.append(f"### {title}\n\n{doc}\n\n| key | values | default | meaning |\n|---|---|---|---|")
        parts[-1] += "".join(f"\n{row}" for row in _rows(section, ""))
    return "\n\n".join(parts) + "\n"


def _rows(section: type[BaseModel], prefix: str) -> Iterator[str]:
    schemas = section.model_json_schema()["properties"]
    for name, field in section.model_fields.items():
        key = field.alias or name
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            yield from _rows(field.annotation, f"{prefix}{key}.")
            continue
        default = "" if field.is_required() else f"`{json.dumps(field.default)}`"
        cells = (f"`{prefix}{key}`", _values(schemas[key]), default, field.description or "")
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _values(schema: dict[str, Any]) -> str:
    """A JSON schema in words: `integer ≥ 1`, `"vq", "fsq"`, `list of integer ≥ 3, ≤ 64`."""
    if members := schema.get("anyOf", schema.get("oneOf")):
        return " or ".join(_values(member) for member in members)
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        return f"list of {_values(schema['items'])}"
    bounds = [text.format(f"{schema[key]:.10g}") for key, text in _BOUNDS.items() if key in schema]
    if "multipleOf" in schema:
        bounds.append(f"multiple of {schema['multipleOf']:g}")
    return " ".join([_KINDS[schema["type"]], ", ".join(bounds)]).strip()


def main() -> None:
    """Rewrite the table in the file named on the command line."""
    page = Path(sys.argv[1])
    head, marker, _ = page.read_text(encoding="utf-8").partition(MARKER)
    page.write_text(f"{head}{marker}\n\n{fields_markdown()}", encoding="utf-8")


if __name__ == "__main__":
    main()
