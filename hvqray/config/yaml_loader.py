"""YAML files read without executing anything, and without YAML's best-known traps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from hvqray.errors import InputError

_FLOAT_TAG = "tag:yaml.org,2002:float"
_TIMESTAMP_TAG = "tag:yaml.org,2002:timestamp"
# YAML 1.2, core schema: the dot is optional, so `1e-3` is a number (YAML 1.1, and so plain PyYAML, reads a string).
_FLOAT = re.compile(
    r"""^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9]+[eE][-+]?[0-9]+
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)


def _resolvers(base: type) -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """The base class's rules for plain scalars, with YAML 1.2 floats and without dates (`name: 2025-01-01` is text)."""
    rules: dict[str, list[tuple[str, re.Pattern[str]]]] = {
        first: [rule for rule in of_first if rule[0] not in (_FLOAT_TAG, _TIMESTAMP_TAG)]
        for first, of_first in base.yaml_implicit_resolvers.items()  # type: ignore[attr-defined]
    }
    for first in "-+0123456789.":
        rules.setdefault(first, []).insert(0, (_FLOAT_TAG, _FLOAT))
    return rules


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses duplicate keys, keys that are not text, and values that contain themselves."""

    yaml_implicit_resolvers = _resolvers(yaml.SafeLoader)

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._open_anchors: list[str | None] = []
        """Those of the values that are being read, the outermost first; None for one without."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) and event.anchor in self._open_anchors:
            problem = f"*{event.anchor} stands within &{event.anchor}, which would never end; write out what is meant"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)  # type: ignore[arg-type]
        self._open_anchors.append(event.anchor)
        node = super().compose_node(parent, index)
        self._open_anchors.pop()
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            problem = None
            if not isinstance(key, str):
                problem = f"the key {key_node.value if isinstance(key_node, yaml.ScalarNode) else key} is not text; put it in quotes"
            elif key in seen:
                problem = f"the key {key!r} appears twice; keep one"
            if problem:
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes exactly what :class:`_Loader` would take for something other than text."""

    yaml_implicit_resolvers = _resolvers(yaml.SafeDumper)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def parse_yaml(text: str, *, source: str) -> Any:
    """The value that `text` describes.

    Raises:
        InputError: the text is no YAML (with the line), has a duplicate key, or a key that is not text.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}" if error.problem_mark else None
        raise InputError(error.problem or "not valid YAML", source=source, field=line) from None
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: an integer beyond Python's limit
        raise InputError(f"not valid YAML: {error}", source=source) from None


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file (an empty file is an empty mapping).

    Raises:
        InputError: there is no such file, it is not UTF-8 text, no valid YAML, or no mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError("no such file", source=str(path)) from None
    except UnicodeDecodeError:
        raise InputError("not a text file in UTF-8", source=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", source=str(path)) from None
    content = parse_yaml(text, source=str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError("holds no `key: value` lines at its top level", source=str(path))
    return content


def dump_yaml(content: Any) -> str:
    """YAML text that :func:`load_yaml` reads back as the same `content` (of dicts, lists and plain values)."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
