"""PaDiM and PatchCore on a pretended GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from pretend_gpu import pretend_gpu
from tiny_data import tiny_data

from hvqray.baselines import padim, patchcore
from hvqray.baselines.measure import BaselineName, measure_baseline


@pytest.mark.parametrize("name", ["padim", "patchcore"])
def test_results_are_those_of_the_cpu(
    name: BaselineName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(padim, "MAX_CHANNELS", 5)  # as with many, which are thinned out by a draw
    monkeypatch.setattr(patchcore, "MAX_CHANNELS", 5)
    data = tiny_data(counts=(8, 5))
    on_cpu = measure_baseline(name, data, pixels_folder=tmp_path)
    with pretend_gpu():
        on_gpu = measure_baseline(name, data, pixels_folder=tmp_path, device="cuda")
    assert [result.settings for result in on_gpu] == [result.settings for result in on_cpu]
    for expected, found in zip(on_cpu, on_gpu, strict=True):
        assert found.metrics == pytest.approx(expected.metrics, abs=1e-5)
        assert found.test_scores.keys() == expected.test_scores.keys()
        for class_name, scores in expected.test_scores.items():
            assert found.test_scores[class_name] == pytest.approx(scores, abs=1e-4)
