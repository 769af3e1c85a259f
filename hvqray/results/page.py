"""What the HTML pages share: their templates and filters, and pictures that need no network."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import jinja2
import markupsafe

from hvqray.results import wording
from hvqray.results.baseline_table import cell_texts
from hvqray.results.class_table import natural_order
from hvqray.results.confirm_table import spread_lines

_EXAMPLES_PER_CLASS = 3
KINDS = {"image": "image", "mask": "mask", "map": "anomaly map"}
"""The pictures of an example, by the names of their files, and what they are called."""


Example = dict[str, str | None]
"""One test image of a best model: kind to the data URI of the picture (None where missing)."""


@dataclass(frozen=True)
class ClassExamples:
    """A class's test images."""

    class_name: str
    examples: list[Example]


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
        moment=wording.moment,
        without_places=wording.without_places,
        command=wording.command_without_places,
        spread=spread_lines,
        breakable=_breakable,
        compared=lambda cell: cell_texts(*cell),
    )
    environment.globals.update(kinds=KINDS, no_test=wording.NO_TEST)
    return environment.get_template(name)


def _breakable(name: str) -> markupsafe.Markup:
    """A name that a narrow column breaks after its underscores rather than anywhere."""
    return markupsafe.escape(name).replace("_", markupsafe.Markup("_<wbr>"))


def examples(folder: Path) -> list[ClassExamples]:
    """The first few examples of every class in `folder`, files `CLASS_NNN_{image,mask,map}.png`; classes in natural order."""
    found: dict[str, list[Example]] = {}
    for path in sorted(folder.glob("*_map.png")):
        stem = path.name.removesuffix("_map.png")
        of_class = found.setdefault(stem.rpartition("_")[0], [])
        if len(of_class) < _EXAMPLES_PER_CLASS:
            of_class.append({kind: _data_uri(folder / f"{stem}_{kind}.png") for kind in KINDS})
    return [ClassExamples(name, found[name]) for name in sorted(found, key=natural_order)]


def _data_uri(path: Path) -> str | None:
    if not path.exists():
        return None
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
