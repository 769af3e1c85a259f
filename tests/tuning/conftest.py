"""Starting whole sweeps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from small_images import SPACE
from sweep_command import Start, Sweep, end


@pytest.fixture
def start(tmp_path: Path, small_images: Path, shared_cache: Path) -> Iterator[Start]:
    """Starts sweeps, and ends whatever a failed test leaves of them."""
    sweeps: list[Sweep] = []

    def begin(*options: str, space: str = SPACE) -> Sweep:
        sweeps.append(Sweep(tmp_path, small_images, shared_cache, *options, space=space))
        return sweeps[-1]

    yield begin
    for sweep in sweeps:
        if sweep.process.poll() is None:
            end([*sweep.descendants(), psutil.Process(sweep.process.pid)])
            sweep.process.wait()  # one left behind would fail the next test, by Python's warning of it
