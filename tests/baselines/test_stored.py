"""Results lie beside the cache, and are measured anew exactly where something that decides them has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_data import tiny_data

from hvqray.baselines import stored
from hvqray.baselines.measure import BaselineResult
from hvqray.baselines.stored import FOLDER, baseline_results


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the baselines that were really measured."""
    names: list[str] = []

    def measure(name: str, *_: object, **__: object) -> list[BaselineResult]:
        names.append(name)
        return [
            BaselineResult(name, {"image_score": "maximum"}, {"val/image_auroc": 0.75, "val/image_ap": None})
        ]

    monkeypatch.setattr(stored, "measure_baseline", measure)
    return names


def test_second_time_is_read(tmp_path: Path, measured: list[str]) -> None:
    first = baseline_results("padim", tiny_data(), cache_dir=tmp_path)
    assert baseline_results("padim", tiny_data(), cache_dir=tmp_path) == first
    assert measured == ["padim"]
    baseline_results("patchcore", tiny_data(), cache_dir=tmp_path)
    assert measured == ["padim", "patchcore"]


def test_what_decides_the_results_is_in_the_key(tmp_path: Path, measured: list[str]) -> None:
    data = tiny_data()
    val, test = data.splits["val"], data.splits["test"]
    samples = (replace(test.samples[0], defect="scratch"), *test.samples[1:])
    baseline_results("padim", data, cache_dir=tmp_path)
    for other in (
        replace(data, fingerprint="other"),
        replace(data, selected_on_test=True),
        replace(data, splits={**data.splits, "val": replace(val, rows=val.rows[::-1])}),
        replace(data, splits={**data.splits, "test": replace(test, samples=samples)}),
        replace(data, splits={**data.splits, "test": replace(test, has_mask=np.zeros_like(test.has_mask))}),
    ):
        before = len(measured)
        baseline_results("padim", other, cache_dir=tmp_path)
        assert len(measured) == before + 1


def test_a_damaged_file_is_measured_anew(tmp_path: Path, measured: list[str]) -> None:
    expected = baseline_results("padim", tiny_data(), cache_dir=tmp_path)
    (path,) = (tmp_path / FOLDER).iterdir()
    for content in ("", "{", '[{"name": "padim"}]', "[1]"):
        path.write_text(content)
        assert baseline_results("padim", tiny_data(), cache_dir=tmp_path) == expected
    assert len(measured) == 5
