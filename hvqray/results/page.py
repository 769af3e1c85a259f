"""What the HTML pages share: their templates and filters, and pictures that need no network."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import jinja2

from hvqray.results import wording
from hvqray.results.baseline_table import cell_texts
from hvqray.results.confirm_table import spread_lines

_EXAMPLES_PER_CLASS = 3
KINDS = {"image": "image", "mask": "mask", "map": "anomaly map"}
"""The pictures of an example, by the names of their files, and what they are called."""


@dataclass(frozen=True)
class Example:
    """One test image of a best model: data URIs of the picture, its mask and its map (None where missing)."""

    class_name: str
    pictures: dict[str, str | None]


def page(name: str) -> jinja2.Template:
    """The template `name`, with the filters that all pages use."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hvqray.results"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=wording.number,
        setting=wording.setting,
        duration=wording.duration,
        spread=spread_lines,
        compared=lambda cell: cell_texts(*cell),
    )
    environment.globals.update(kinds=KINDS, no_test=wording.NO_TEST)
    return environment.get_template(name)


def examples(folder: Path) -> list[Example]:
    """The first few examples of every class in `folder`, files `CLASS_NNN_{image,mask,map}.png`."""
    taken: dict[str, int] = {}
    found = []
    for path in sorted(folder.glob("*_map.png")):
        stem = path.name.removesuffix("_map.png")
        class_name = stem.rpartition("_")[0]
        taken[class_name] = taken.get(class_name, 0) + 1
        if taken[class_name] <= _EXAMPLES_PER_CLASS:
            pictures = {kind: _data_uri(folder / f"{stem}_{kind}.png") for kind in KINDS}
            found.append(Example(class_name, pictures))
    return found


def _data_uri(path: Path) -> str | None:
    if not path.exists():
        return None
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
