"""A small sweep file to change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

SWEEP = """\
method: bayes
metric: {name: val/image_auroc, goal: maximize}
parameters:
  model.name: {values: [hvq, squad]}
  model.fsq_levels: {values: [[8, 6, 5], [8, 5, 5, 5]]}
  model.router: {values: [oracle, none], when: {model.name: hvq}}
  train:
    parameters:
      lr: {min: 1e-4, max: 3e-3, distribution: log_uniform_values}
model: {quantizer: fsq}
train: {epochs: 8}
"""


@pytest.fixture
def sweep_path(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SWEEP)
    return path


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a sweep file of the given parameters (flow YAML), and of further lines."""

    def write_file(parameters: str, *lines: str) -> Path:
        path = tmp_path / "space.yaml"
        head = "method: random\nmetric: {name: val/image_auroc, goal: maximize}\n"
        path.write_text(f"{head}parameters: {parameters}\n" + "\n".join(lines) + "\n")
        return path

    return write_file
