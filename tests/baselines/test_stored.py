"""Results lie beside the cache, and are measured anew exactly where something that decides them has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from zipfile import is_zipfile

import numpy as np
import pytest
from tiny_data import tiny_data

from hvqray.baselines import stored
from hvqray.baselines.measure import BaselineResult
from hvqray.baselines.stored import FOLDER, baseline_results
from hvqray.metrics.histogram_file import writing_histograms


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the baselines that were really measured."""
    names: list[str] = []

    def measure(name: str, *_: object, pixels_folder: Path, **__: object) -> list[BaselineResult]:
        names.append(name)
        pixels = pixels_folder / "pixels.npz"
        with writing_histograms(pixels):
            pass
        metrics = {"val/image_auroc": 0.75, "val/image_ap": None}
        return [BaselineResult(name, {"image_score": "maximum"}, metrics, test_pixels=pixels)]

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
        replace(data, context=replace(data.context, grid_of_patches=True)),
        replace(data, splits={**data.splits, "val": replace(val, rows=val.rows[::-1])}),
        replace(data, splits={**data.splits, "test": replace(test, samples=samples)}),
        replace(data, splits={**data.splits, "test": replace(test, has_mask=np.zeros_like(test.has_mask))}),
    ):
        before = len(measured)
        baseline_results("padim", other, cache_dir=tmp_path)
        assert len(measured) == before + 1


def test_a_damaged_file_is_measured_anew(tmp_path: Path, measured: list[str]) -> None:
    expected = baseline_results("padim", tiny_data(), cache_dir=tmp_path)
    (path,) = (tmp_path / FOLDER).glob("*.json")
    for content in ("", "{", '[{"name": "padim"}]', "[1]"):
        path.write_text(content)
        assert baseline_results("padim", tiny_data(), cache_dir=tmp_path) == expected
    assert len(measured) == 5


def test_without_its_histograms_a_result_is_measured_anew(tmp_path: Path, measured: list[str]) -> None:
    (expected,) = baseline_results("padim", tiny_data(), cache_dir=tmp_path)
    assert expected.test_pixels is not None
    for content in (None, b"", expected.test_pixels.read_bytes()[:-2]):
        expected.test_pixels.unlink()
        if content is not None:
            expected.test_pixels.write_bytes(content)
        assert baseline_results("padim", tiny_data(), cache_dir=tmp_path) == [expected]
        assert is_zipfile(expected.test_pixels)
    assert len(measured) == 4


def test_a_cache_that_has_been_moved_is_read_where_it_is(tmp_path: Path, measured: list[str]) -> None:
    baseline_results("padim", tiny_data(), cache_dir=tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    (found,) = baseline_results("padim", tiny_data(), cache_dir=tmp_path / "new")
    assert measured == ["padim"]
    assert found.test_pixels is not None
    assert found.test_pixels.is_relative_to(tmp_path / "new")
    assert found.test_pixels.exists()
