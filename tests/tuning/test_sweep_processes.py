"""Whole sweeps as a user starts them, on a running Ray cluster: two workers, submitted jobs.

A sweep costs some fifteen seconds of a core, whatever it trains: whoever adds one here asks first whether a test of its
parts would fail too.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from ray_head import RayHead, environment_without_ray
from small_images import SPACE, write_space
from sweep_command import Start, Sweep, alive

from hvqray.metrics import METRIC_NAMES

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def test_two_workers_a_trial_in_one_group_that_lives_on(start: Start) -> None:
    """On a Ray cluster of the sweep's own, to its end; one of the trials is stopped early, and the group goes on with the next."""
    space = SPACE.replace("val/image_auroc", "val/mad").replace("method: random", "method: grid")
    space = space.replace(
        "{distribution: log_uniform_values, min: 1e-3, max: 1e-2}", "{values: [1e-2, 1e-7]}"
    )
    space += "early_terminate: {type: hyperband, min_iter: 2, eta: 2}\n"
    options = ("--num-trials", "4", "--set", "resources.workers=2", "--set", "train.epochs=4")
    sweep = start(*options, space=space)
    sweep.wait_for("t0000 COMPLETE")
    workers = workers_of(sweep)
    sweep.wait_for("t0003 started")
    later = workers_of(sweep)
    assert sweep.wait() == 0, sweep.log.read_text()
    assert len(workers) == 2
    assert later == workers
    assert not alive(list(workers))
    rows = sweep.trials()
    assert {row["state"] for row in rows} == {"COMPLETE", "PRUNED"}
    assert {row["epochs"] for row in rows if row["state"] == "PRUNED"} == {2}
    for row in rows:
        assert row["val/bolt/mad"] == pytest.approx(
            sum(row[f"val/bolt/{metric}"] for metric in METRIC_NAMES) / 7
        )
    assert sorted(sweep.states()) == sorted(row["state"] for row in rows)


def workers_of(sweep: Sweep) -> set[psutil.Process]:
    return {process for process in sweep.descendants() if "RayTrainWorker" in " ".join(process.cmdline())}


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
