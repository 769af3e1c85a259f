"""Whole sweeps as a user starts them, on a running Ray cluster: two workers, submitted jobs.

A sweep costs some fifteen seconds of a core, whatever it trains: whoever adds one here asks first whether a test of its
parts would fail too.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ray_head import RayHead, environment_without_ray
from small_images import write_space
from sweep_command import Start, assert_nothing_left

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def test_two_workers_a_trial_in_one_group_that_lives_on(start: Start, cluster: RayHead) -> None:
    options = ("--num-trials", "2", "--set", "resources.workers=2", "--set", "train.epochs=3")
    sweep = start("--address", cluster.address, *options)
    sweep.wait_for("t0000 COMPLETE")
    workers = {process.pid for process in cluster.processes("RayTrainWorker")}
    sweep.wait_for("t0001 epoch 1/3")
    later = {process.pid for process in cluster.processes("RayTrainWorker")}
    assert sweep.wait() == 0, sweep.log.read_text()
    assert [row["state"] for row in sweep.trials()] == ["COMPLETE"] * 2
    assert len(workers) == 2
    assert later == workers
    assert_nothing_left(cluster)


def test_submitted_as_a_job_it_is_the_same_sweep(
    tmp_path: Path, small_images: Path, shared_cache: Path, cluster: RayHead
) -> None:
    command = [sys.executable, "-m", "hvqray.submit", str(write_space(tmp_path)), "--address", cluster.url]
    command += ["--data", str(small_images), "--out", str(tmp_path / "runs"), "--wandb", "disabled"]
    command += ["--num-trials", "1", "--env", f"HVQRAY_CACHE_DIR={shared_cache}"]
    environment = environment_without_ray() | {"RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1/1 trials ended" in done.stdout
    rows = pq.read_table(tmp_path / "runs" / "small" / "trials.parquet").to_pylist()
    assert [row["state"] for row in rows] == ["COMPLETE"]
