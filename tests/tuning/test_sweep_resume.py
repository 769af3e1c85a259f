"""One sweep that is interrupted, killed, killed again while it confirms its best configuration, and each time resumed.

All in one test, for every start of a sweep costs some fifteen seconds of a core: first on a local Ray cluster of its own, then
on another one.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from ray_head import RayHead
from sklearn.metrics import roc_auc_score
from sweep_command import ONE_AT_A_TIME, Start, Sweep, alive, assert_nothing_left

from hvqray.results.confirm_store import read_confirm_runs
from hvqray.training.checkpoint import load_model, trial_folder

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SEEDS = (0, 1, 2)
"""The search has 0 itself, so that its best trial stands for the first run."""
NUM_EPOCHS = 30


def test_interrupted_and_killed_nothing_is_lost_or_repeated(
    start: Start, cluster: RayHead, tmp_path: Path, shared_cache: Path
) -> None:
    # The cache is said to the sweep, not left to its environment, which the cluster's processes do not see: features that
    # another process has computed may differ in their last bits.
    options = (
        "--set",
        f"train.epochs={NUM_EPOCHS}",
        "--set",
        "baselines=[padim]",
        "--cache-dir",
        str(shared_cache),
    )
    before, epochs_done = interrupt_in_the_search(start(*options, "--num-trials", "3"))

    options += ("--resume", "--num-trials", "4", "--address", cluster.address, *ONE_AT_A_TIME)
    second = start(*options)
    second.wait_for(f"t0003 epoch 2/{NUM_EPOCHS}")
    second.process.kill()
    second.wait()
    assert_nothing_left(cluster)
    goes_on_from(epochs_done, second)

    options += ("--set", "confirm.top_k=1", "--set", f"confirm.seeds={list(SEEDS)}")
    third = start(*options)
    third.wait_for("-s1 COMPLETE")
    third.process.kill()
    third.wait()
    assert_nothing_left(cluster)
    assert set(started(third)) == {"t0003"} | {name for name in started(third) if "-s" in name}
    done = read_confirm_runs(third.folder)
    assert len(done) == 2
    assert not (third.folder / "best").exists()

    last = start(*options)
    assert last.wait() == 0, last.log.read_text()
    rows = last.trials()
    assert [row["number"] for row in rows] == [0, 1, 2, 3], "retraining is no trial of the search"
    assert [row for row in rows if row["number"] in {old["number"] for old in before}] == before
    assert last.states() == ["COMPLETE"] * 4
    every_epoch_is_there_once(last, [row["trial_id"] for row in rows])
    confirmation_is_whole(last, done)
    baselines_are_told(last)
    last_run_repeats_bit_for_bit(last, tmp_path / "again", shared_cache)


def interrupt_in_the_search(sweep: Sweep) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Ctrl-C while the third trial runs; the trials that had ended by then, and the epochs of those that had not."""
    sweep.wait_for(f"t0002 epoch 2/{NUM_EPOCHS}")
    processes = sweep.descendants()
    asked = time.monotonic()
    os.kill(sweep.process.pid, signal.SIGINT)
    assert sweep.wait(60) == 130
    assert time.monotonic() - asked < 20
    assert "go on with --resume" in sweep.log.read_text()
    assert "Traceback" not in sweep.log.read_text()
    assert not alive(processes)
    ended = sweep.trials()
    assert 1 <= len(ended) < 3
    states = (sweep.folder / ".state" / "trials").glob("*/last.pt")
    epochs_done = {path.parent.name: torch.load(path, weights_only=True)["epochs_done"] for path in states}
    assert epochs_done, "the running trials left their checkpoints"
    return ended, epochs_done


def started(sweep: Sweep) -> list[str]:
    return re.findall(r"^(\S+) started", sweep.log.read_text(), re.MULTILINE)


def goes_on_from(epochs_done: dict[str, int], sweep: Sweep) -> None:
    for trial, epoch in epochs_done.items():
        told = re.findall(rf"^{trial} epoch (\d+)/{NUM_EPOCHS}", sweep.log.read_text(), re.MULTILINE)
        assert int(told[0]) == epoch, "it goes on from its last checkpoint"


def every_epoch_is_there_once(sweep: Sweep, trials: Sequence[str]) -> None:
    epochs = pq.read_table(sweep.folder / "metrics.parquet").to_pandas()
    for trial in trials:
        losses = epochs[(epochs.trial_id == trial) & (epochs.metric == "loss")]
        assert sorted(losses.epoch) == list(range(1, NUM_EPOCHS + 1))


def confirmation_is_whole(sweep: Sweep, done: dict[str, Any]) -> None:
    """`done` are the runs that had ended when the driver was killed."""
    log, folder = sweep.log.read_text(), sweep.folder
    best = json.loads((folder / "best" / "metrics.json").read_text())
    (confirmed,) = best["confirm"]
    runs = [f"{confirmed['trial_id']}-s{seed}" for seed in SEEDS]
    assert (confirmed["seeds"], confirmed["run_ids"], confirmed["failed"]) == (list(SEEDS), runs, {})
    assert set(started(sweep)) == set(runs) - done.keys()
    values = confirmed["metrics"]["val/image_auroc"]["values"]
    (trial,) = (row for row in sweep.trials() if row["trial_id"] == confirmed["trial_id"])
    assert values[0] == trial["val/image_auroc"], "it was trained with seed 0"
    assert best["run_id"] == runs[values.index(max(values))]
    assert best["metrics"]["val/image_auroc"] == max(values)
    table = pq.read_table(folder / "best" / "test_scores.parquet").to_pandas()
    for class_name, images in table.groupby("class_name"):
        expected = roc_auc_score(images.is_anomalous, images.score)
        assert best["metrics"][f"test/{class_name}/image_auroc"] == pytest.approx(expected, abs=1e-9)
    shown = confirmed["metrics"]["test/image_auroc"]
    assert f"{shown['mean']:.4f} ± {shown['std']:.4f}" in log
    assert f"{shown['low']:.4f} to {shown['high']:.4f}" in log
    report = folder / "report.html"
    assert 'id="confirmed"' in report.read_text()
    assert report.stat().st_size > 1_000_000


def baselines_are_told(sweep: Sweep) -> None:
    (baseline,) = json.loads((sweep.folder / "best" / "metrics.json").read_text())["baselines"]
    assert baseline["name"] == "padim"
    assert 0 <= baseline["metrics"]["test/pixel_aupro"] <= 1
    assert "against PaDiM: " in sweep.log.read_text()


def last_run_repeats_bit_for_bit(sweep: Sweep, out: Path, cache: Path) -> None:
    """In a process of its own, as a user's: what ran in this one before can change the last bits of its arithmetic."""
    best = json.loads((sweep.folder / "best" / "metrics.json").read_text())
    run_id = best["confirm"][0]["run_ids"][-1]
    command = [sys.executable, "-m", "hvqray.train", "--trial", f"{sweep.folder}:{run_id}", "--out", str(out)]
    subprocess.run([*command, "--cache-dir", str(cache)], check=True, timeout=300)
    original, again = load_model(trial_folder(sweep.folder, run_id)), load_model(out)
    assert again.config.train.seed == SEEDS[-1]
    assert again.metrics["metrics"] == original.metrics["metrics"]
    state = again.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in original.model.state_dict().items())
