"""Whole sweeps as a user starts them, on a running Ray cluster: how they end where trials fail, time is up or a target is reached.

Apart from `test_sweep_processes.py` so that two processes share the sweeps; what is said there of their cost holds here.
"""

from __future__ import annotations

import json

import pytest
from ray_head import RayHead
from small_images import SPACE
from sweep_command import ONE_AT_A_TIME, Start, assert_nothing_left

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def test_failing_trials_are_shown_and_harm_no_other(start: Start, cluster: RayHead) -> None:
    searched = "train.lr: {distribution: log_uniform_values, min: 1e-3, max: 1e-2}"
    space = SPACE.replace(searched, "train.lr: {values: [1e-3, 1e30]}").replace(
        "method: random", "method: grid"
    )
    space = space.replace("precision: fp32", "precision: fp32, gradient_clip: null")
    sweep = start("--address", cluster.address, "--num-trials", "4", *ONE_AT_A_TIME, space=space)
    assert sweep.wait() == 0, sweep.log.read_text()
    rows = sweep.trials()
    failed = {json.loads(row["params"])["train.lr"] for row in rows if row["state"] == "FAIL"}
    fine = {json.loads(row["params"])["train.lr"] for row in rows if row["state"] == "COMPLETE"}
    assert (failed, fine) == ({1e30}, {1e-3})
    assert all("diverged in epoch" in row["error"] for row in rows if row["state"] == "FAIL")
    assert sorted(sweep.states()) == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]


def test_time_ends_a_sweep(start: Start, cluster: RayHead) -> None:
    sweep = start(
        "--address", cluster.address, "--time-budget", "10s", "--num-trials", "5000", *ONE_AT_A_TIME
    )
    code = sweep.wait(200)
    states = sweep.states()
    # How far it comes depends on the machine: what counts is that it ends, and that what was cut off is said.
    assert code == (0 if "COMPLETE" in states else 1), sweep.log.read_text()
    assert len(sweep.trials()) < 5000
    assert states.count("RUNNING") <= 1
    assert ("--resume goes on with what was cut off" in sweep.log.read_text()) == ("RUNNING" in states)
    assert_nothing_left(cluster)


def test_a_target_ends_a_sweep_once_the_running_trials_are_done(start: Start, cluster: RayHead) -> None:
    space = SPACE.replace("goal: maximize}", "goal: maximize, target: 0.1}")
    sweep = start("--address", cluster.address, "--num-trials", "50", space=space)
    assert sweep.wait() == 0, sweep.log.read_text()
    assert 1 <= len(sweep.trials()) <= 3
    assert set(sweep.states()) == {"COMPLETE"}
