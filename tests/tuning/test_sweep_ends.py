"""Whole sweeps on a running Ray cluster: how they end where trials fail or die, time is up or a target is reached.

Apart from `test_sweep_processes.py` so that two processes share the sweeps; what is said there of their cost holds here.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ray_head import RayHead
from small_images import SPACE
from sweep_command import ONE_AT_A_TIME, RunHere, Start
from wandb_files import of_kind, offline_runs, records

from hvqray.results.stored_trials import read_trials, read_unfinished
from hvqray.results.sweep_folder import read_best

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def test_trials_that_fail_or_whose_process_dies_harm_no_other(start: Start, cluster: RayHead) -> None:
    searched = "train.lr: {distribution: log_uniform_values, min: 1e-3, max: 1e-2}"
    space = SPACE.replace(searched, "train.lr: {values: [1e-3, 1e30]}")
    space = space.replace("method: random", "method: grid").replace("{values: [4, 8]}", "{values: [8]}")
    space = space.replace("precision: fp32", "precision: fp32, gradient_clip: null")
    options = ("--address", cluster.address, "--num-trials", "2", "--set", "train.epochs=60")
    sweep = start(*options, *ONE_AT_A_TIME, space=space)
    sweep.wait_for("epoch 3/60")
    (actor,) = cluster.processes("HvqrayTrial")
    actor.kill()
    assert sweep.wait() == 0, sweep.log.read_text()
    log = sweep.log.read_text()
    assert "hvqray: t0001 starts again from its last checkpoint: its process died\n" in log
    assert "raylet" not in log
    rows = sweep.trials()
    failed = {json.loads(row["params"])["train.lr"] for row in rows if row["state"] == "FAIL"}
    fine = {json.loads(row["params"])["train.lr"] for row in rows if row["state"] == "COMPLETE"}
    assert (failed, fine) == ({1e30}, {1e-3})
    assert all("diverged in epoch" in row["error"] for row in rows if row["state"] == "FAIL")
    assert sorted(sweep.states()) == ["COMPLETE", "FAIL"]
    assert log.count("epoch 1/60") == 1, "the killed one goes on from its checkpoint"


def test_time_ends_a_sweep(run_here: RunHere, cluster: RayHead, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "small"
    code, output = run_here("--time-budget", "10s", "--num-trials", "5000")
    ended, cut_off = read_trials(folder), read_unfinished(folder)
    # How far it comes depends on the machine: what counts is that it ends, and that what was cut off is said.
    assert code == (0 if ended else 1), output
    assert {trial.state for trial in ended} <= {"COMPLETE"}
    assert len(ended) < 5000
    assert len(cut_off) <= 1
    assert ("--resume goes on with what was cut off" in output) == bool(cut_off)


def test_a_target_ends_a_sweep_once_the_running_trials_are_done(run_here: RunHere, tmp_path: Path) -> None:
    space = SPACE.replace("goal: maximize}", "goal: maximize, target: 0.1}")
    code, output = run_here("--num-trials", "50", "--wandb", "offline", space=space)
    assert code == 0, output
    folder = tmp_path / "runs" / "small"
    ended = read_trials(folder)
    assert 1 <= len(ended) <= 2
    assert {trial.state for trial in ended} == {"COMPLETE"}
    assert " reached the target, val/image_auroc 0.1, which ends the search" in output
    runs_are_mirrored(folder, [trial.trial_id for trial in ended])


def test_each_class_is_searched_by_itself(run_here: RunHere, tmp_path: Path) -> None:
    options = ("--per-class", "--num-trials", "1", "--set", "train.epochs=1", "--set", "metric.name=val/mad")
    code, output = run_here(*options, "--set", "baselines=[padim]")
    assert code == 0, output
    folder = tmp_path / "runs" / "small"
    of_class = {name: read_best(folder / f"small-{name}") for name in ("bolt", "cloth")}
    joint = json.loads((folder / "metrics.json").read_text())
    for name, best in of_class.items():
        assert best is not None
        for metric in ("image_auroc", "pixel_aupro", "mad"):
            assert joint["metrics"][f"test/{name}/{metric}"] == best.metrics[f"test/{metric}"]
    assert [each["name"] for each in joint["baselines"]] == ["padim"]
    assert joint["baselines"][0]["metrics"].keys() >= {"val/mad", "test/mad"}
    assert (folder / "report.html").exists()
    assert "one model a class on test" in output
    before = joint["metrics"]
    code, output = run_here(*options, "--set", "baselines=[padim]", "--resume")
    assert code == 0, output
    assert json.loads((folder / "metrics.json").read_text())["metrics"] == before


def runs_are_mirrored(folder: Path, trial_ids: list[str]) -> None:
    """One W&B run a trial with all its epochs, and the best model as an artifact of one of them."""
    assert offline_runs(folder) == trial_ids
    models = []
    for trial_id in trial_ids:
        found = records(folder, trial_id)
        history = [each["item"] for each in of_kind(found, "history") if "val/image_auroc" in each["item"]]
        assert [item["epoch"] for item in history] == [1, 2]
        assert "val/bolt/pixel_aupro" in history[-1]
        models += [each["name"] for each in of_kind(found, "artifact") if each["type"] == "model"]
    assert models == ["small-best"]
