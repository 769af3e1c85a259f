"""The YAML reader: safe, strict about keys, and with YAML 1.2 numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvqray.config.yaml_loader import dump_yaml, load_yaml, parse_yaml
from hvqray.errors import InputError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("12", 12),
        ("e3", "e3"),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("2025-01-31", "2025-01-31"),
        ("'1e-3'", "1e-3"),
        ("null", None),
        ("true", True),
    ],
)
def test_plain_scalars(text: str, value: Any) -> None:
    parsed = parse_yaml(text, source="x")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' appears twice"),
        ("a:\n  b: 1\n  b: 2\n", "line 3: the key 'b' appears twice"),
        ("1: x\n", "line 1: the key 1 is not text"),
        ("on: x\n", "line 1: the key on is not text; put it in quotes"),
        ("[a, b]: x\n", "line 1: the key ['a', 'b'] is not text"),
        ("a: [1, 2\nb: 3\n", "line 2"),
        ("a: 1\n\tb: 2\n", "line 2"),
        ("- 1\n- 2\n", "holds no `key: value` lines"),
        ("a: &x {b: 1, c: {d: *x}}\n", "line 1: *x stands within &x, which would never end"),
        ("a: 1\nb: &x [1, [*x]]\n", "line 2: *x stands within &x"),
        ("a: !!python/object/apply:os.getcwd []\n", "line 1: could not determine a constructor"),
    ],
)
def test_faults_are_one_line_with_file_and_place(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_yaml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file"):
        load_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        load_yaml(tmp_path)
    (tmp_path / "image.yaml").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(InputError, match="UTF-8"):
        load_yaml(tmp_path / "image.yaml")


def test_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert load_yaml(tmp_path / "empty.yaml") == {}


def test_aliases_work() -> None:
    text = "a: &x {b: 1}\nc: [*x, *x]\nd: &y [2]\ne: {f: *y, g: &z {h: *x}}\ni: *z\n"
    one = {"b": 1}
    expected = {"a": one, "c": [one, one], "d": [2], "e": {"f": [2], "g": {"h": one}}, "i": {"h": one}}
    assert parse_yaml(text, source="x") == expected


def test_merge_keys_work(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: &base {lr: 1}\ntrain:\n  <<: *base\n  epochs: 2\n")
    assert load_yaml(tmp_path / "a.yaml")["train"] == {"lr": 1, "epochs": 2}


_plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"])),
    st.sampled_from(["1e-3", "2025-01-31", "yes", "~", "1_000", "0x1F", "1:30", ".5", "1.", "nan", ".inf"]),
)


@given(
    st.recursive(
        _plain,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("abc.12e-", min_size=1), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_what_is_written_reads_back(content: Any) -> None:
    assert parse_yaml(dump_yaml({"content": content}), source="x") == {"content": content}
