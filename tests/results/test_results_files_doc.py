"""The examples of docs/results-files.md run, and its tables name the columns that are there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fake_sweep import write_fake_sweep

from hvqray.config.sweep_file import load_sweep

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "results-files.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_fake_sweep(tmp_path / "runs" / "NAME")


def test_examples_run(sweep: Path) -> None:
    pytest.importorskip("duckdb")
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(block, names)
    assert len(BLOCKS) == 4
    assert names["complete"]["trial_id"].iloc[0] == "t0005"
    assert set(names["curves"]["class_name"]) == {"ballscrew", "cookie", "magnetic_tile", "mean", "road"}
    assert names["by_levels"]["trials"].sum() == 4


def test_examples_look_at_parameters_that_the_first_sweep_searches() -> None:
    columns = set(re.findall(r"\bparam\.([\w.]+)", "\n".join(BLOCKS)))
    assert columns
    assert columns <= load_sweep(ROOT / "search_spaces" / "fsq.yaml").parameters.keys()


def test_tables_name_every_column(sweep: Path) -> None:
    documented = set(re.findall(r"^\| `([^`]+)`", PAGE, flags=re.MULTILINE))
    trials = pq.read_schema(sweep / "trials.parquet").names
    fixed = {name for name in trials if "/" not in name and not name.startswith("param.")}
    assert fixed <= documented
    assert set(pq.read_schema(sweep / "metrics.parquet").names) <= documented


def test_the_best_model_s_record_is_told_key_by_key(sweep: Path) -> None:
    section = PAGE.partition("## best/metrics.json")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `([^`]+)`", section, flags=re.MULTILINE))
    record = json.loads((sweep / "best" / "metrics.json").read_text())
    assert set(record) <= documented
