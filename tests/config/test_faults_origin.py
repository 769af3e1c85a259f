"""Faults found after loading name the place as those found at load do."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvqray.config.overrides import origin_of
from hvqray.config.sweep_file import load_sweep
from hvqray.errors import InputError


@pytest.mark.parametrize(
    ("field", "overrides", "data_root", "source"),
    [
        ("data.backbone.name", [], None, "space.yaml"),
        ("data.backbone.name", ["data.backbone.name=x"], None, "--set"),
        ("data.backbone.name", ["data={backbone: {name: x}}"], "x", "--set"),
        ("data.root", ["data.root=y"], "x", "--data"),
        ("data.root", ["data.root=y"], None, "--set"),
        ("data.classes", ["data.root=y"], "x", "space.yaml"),
        ("method", [], "x", "space.yaml"),
    ],
)
def test_a_field_without_a_source_gets_one(
    field: str, overrides: list[str], data_root: str | None, source: str
) -> None:
    with (
        pytest.raises(InputError) as caught,
        origin_of(Path("space.yaml"), overrides, data_root).found_later(),
    ):
        raise InputError("is wrong; mend it", field=field)
    assert str(caught.value) == f"{source}: {field}: is wrong; mend it"


@pytest.mark.parametrize(
    "fault",
    [
        InputError("is wrong", source="other.csv", field="line"),
        InputError("is wrong", field="--out x"),
        InputError("is wrong"),
    ],
)
def test_other_faults_stay_as_they_are(fault: InputError) -> None:
    with pytest.raises(InputError) as caught, origin_of("space.yaml", [], None).found_later():
        raise fault
    assert caught.value is fault


def test_an_empty_root_names_the_option(sweep_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--data: data\.root: is empty"):
        load_sweep(sweep_path, data_root="")
