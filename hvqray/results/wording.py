"""How values read to people, alike in the terminal and the HTML report."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection
from typing import Any

VAL_IS_TEST = "selected on test: data.validation.from is none, so val is the test split"
"""What a command says before it trains on such data."""

NO_TEST = "There is no test image: all figures are on val, by which the best model was chosen."
"""What is said of the best model of such a dataset."""


def number(value: float | None) -> str:
    """A metric: four significant decimals, a dash where it is undefined."""
    if value is None:
        return "-"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"


def setting(value: Any) -> str:
    """A parameter's value as YAML and `--set` have it, floats at three significant digits: `[vq, fsq]`, `false`, `null`."""
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return f"[{', '.join(setting(one) for one in value)}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def size(size_bytes: int | None) -> str:
    """`870 MB`, `1.7 GB`, a dash where it is unknown."""
    if size_bytes is None:
        return "-"
    megabytes = round(size_bytes / 1e6)
    return f"{megabytes} MB" if megabytes < 1000 else f"{size_bytes / 1e9:.1f} GB"


def duration(seconds: float) -> str:
    """`42 s`, `3 min 10 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(text: str) -> str:
    """`2026-11-22 21:49 UTC` of `2026-11-22T21:49:47+00:00`; any other text as it is."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::\d\d(?:\.\d+)?)?(?:\+00:00|Z)", text)
    return f"{found[1]} {found[2]} UTC" if found else text


def without_places(text: str) -> str:
    """Absolute paths by their last part, `.../parts`: a page that is passed on tells nobody where files lie."""
    return re.sub(r"(?<![\w.~/:-])(?:~|file://)?/(?:[^\s'\"/:,;()\[\]<>]+/)+(?=[^\s'\"/])", ".../", text)


def command_without_places(command: str) -> str:
    """A command line likewise, whose paths may have spaces in them."""
    try:
        words = shlex.split(command)
    except ValueError:
        return without_places(command)
    return shlex.join(_word_without_places(word) for word in words)


def _word_without_places(word: str) -> str:
    name, equals, value = word.rpartition("=")
    if re.match(r"~?/", value) and not re.search(r"[\[{,]", value):
        return f"{name}{equals}.../{value.rstrip('/').rpartition('/')[2]}"
    return without_places(word)


def short_names(names: Collection[str]) -> dict[str, str]:
    """Dotted name to its last part (of `model.name` to `model`), or to the whole name where another one ends alike."""
    # `name` says nothing of whose name it is.
    lasts = [name.removesuffix(".name").rpartition(".")[2] for name in names]
    return {name: last if lasts.count(last) == 1 else name for name, last in zip(names, lasts, strict=True)}


def one_line(params: dict[str, Any]) -> str:
    """`codebook_size=128 lr=0.001`."""
    short = short_names(params)
    return " ".join(f"{short[name]}={setting(value)}" for name, value in params.items())
