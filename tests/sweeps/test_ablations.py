"""The files in sweeps/ablation/: a grid whose every variant is confirmed, as sweeps/README.md says."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvqray.config.sweep_file import load_sweep
from hvqray.tuning.space import SearchSpace

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"
ABLATIONS = sorted((SWEEPS / "ablation").glob("*.yaml"))


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_every_variant_is_confirmed_at_the_same_age(path):
    sweep = load_sweep(path)
    variants = SearchSpace(sweep.parameters).grid_size()
    assert sweep.method == "grid"
    assert sweep.confirm.top_k == variants
    assert sweep.early_terminate is None
    assert sweep.base_run_config().train.checkpoint == "last"
    assert sweep.base_run_config().data.validation.from_ == "test"
    runs = variants * len(sweep.confirm.seeds)
    [row] = [
        line
        for line in (SWEEPS / "README.md").read_text().splitlines()
        if f"({path.parent.name}/" in line and path.name in line
    ]
    assert f"| {variants} trials, then {runs} |" in row
