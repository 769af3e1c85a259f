"""A real sweep under the step clock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.commands import ROOT, TRIVIAL, gaps, run_command, run_sweep, write_small_set


@pytest.mark.benchmark
@pytest.mark.ray
def test_steps_of_a_sweeps_trials_are_noted(tmp_path: Path) -> None:
    data = write_small_set(tmp_path / "data")
    space = TRIVIAL | {"resources": {"max_concurrent_trials": 1}}
    done = run_sweep(space, folder=tmp_path / "runs", data=data, cache=tmp_path / "cache", num_trials=2)
    assert [trial["state"] for trial in done.trials()] == ["COMPLETE", "COMPLETE"]
    (gap,) = gaps(done.steps, per_trial=1)
    assert 0 < gap < done.seconds
    assert len({process for _, process in done.steps}) == 1, (
        "the second trial runs in the first one's process"
    )
    assert max(done.samples.trial_bytes) > 10**8
    assert max(done.samples.driver_bytes) > 10**8


def test_a_command_that_fails_is_told_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        run_command(["-c", "raise SystemExit('no such thing')"], folder=tmp_path)


def test_step_clock_notes_every_step_of_every_optimizer(tmp_path: Path) -> None:
    log = tmp_path / "steps.txt"
    program = (
        "import time, torch\n"
        "time.sleep(0.1)\n"
        "x = torch.nn.Parameter(torch.zeros(1)); x.grad = torch.ones(1)\n"
        "for kind in (torch.optim.SGD, torch.optim.AdamW):\n"
        "    optimizer = kind([x], lr=0.1); optimizer.step(); optimizer.step()\n"
    )
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "benchmarks" / "step_clock"),
        "HVQRAY_STEP_CLOCK": str(log),
    }
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)
    assert len(log.read_text().splitlines()) == 4
