"""Starting whole sweeps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray_head import RayHead
from small_images import SPACE, write_space
from sweep_command import ONE_AT_A_TIME, RunHere, Start, Sweep, assert_nothing_left, end

from hvqray import sweep as sweep_module
from hvqray.command_line import run_command


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


@pytest.fixture
def run_here(
    tmp_path: Path,
    small_images: Path,
    shared_cache: Path,
    cluster: RayHead,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[RunHere]:
    """Runs a sweep on the cluster from this process, which has its imports: half the cost of a command. Trials in turn."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    before = signal.getsignal(signal.SIGTERM)

    def run(*options: str, space: str = SPACE) -> tuple[int, str]:
        """The exit code, and what was printed."""
        command = [
            str(write_space(tmp_path, space)),
            "--data",
            str(small_images),
            "--out",
            str(tmp_path / "runs"),
        ]
        command += ["--wandb", "disabled", "--cache-dir", str(shared_cache), "--address", cluster.address]
        code = run_command(sweep_module.main, [*command, *ONE_AT_A_TIME, *options])
        assert_nothing_left(cluster)
        return code, capfd.readouterr().out

    yield run
    signal.signal(signal.SIGTERM, before)
