"""docs/sweep-file.md says what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from hvqray.config.data_sections import DataConfig
from hvqray.config.model_sections import HvqConfig, SquadConfig
from hvqray.config.parameters import Parameter
from hvqray.config.reference import MARKER, fields_markdown
from hvqray.config.search_sections import Hyperband, Metric
from hvqray.config.sections import ConfirmConfig, ResourcesConfig, TrainConfig
from hvqray.config.sweep_file import SweepFile, load_sweep
from hvqray.tuning.samplers import METHODS

PAGE = (Path(__file__).parents[2] / "docs" / "sweep-file.md").read_text(encoding="utf-8")


def test_the_table_is_up_to_date() -> None:
    _, marker, table = PAGE.partition(MARKER)
    assert marker
    assert table.strip() == fields_markdown().strip(), (
        "run `python -m hvqray.config.reference docs/sweep-file.md`"
    )


@pytest.mark.parametrize(
    "section", [HvqConfig, SquadConfig, DataConfig, TrainConfig, ResourcesConfig, ConfirmConfig]
)
def test_every_field_has_a_row_and_a_meaning(section: type[BaseModel]) -> None:
    for name, field in section.model_fields.items():
        assert field.description
        assert f"`{field.alias or name}`" in PAGE or f"`{field.alias or name}." in PAGE


@pytest.mark.parametrize("keys", [SweepFile, Parameter, Metric, Hyperband])
def test_every_key_of_the_file_is_described(keys: type[BaseModel]) -> None:
    for name in keys.model_fields:
        assert f"`{name}`" in PAGE or f"`{name}:" in PAGE, name


def test_every_method_is_described() -> None:
    for method in METHODS:
        assert f"`{method}`" in PAGE


def test_the_example_loads(tmp_path: Path) -> None:
    example = PAGE.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "example.yaml").write_text(example)
    assert len(load_sweep(tmp_path / "example.yaml").parameters) == 4
