"""A sweep whose best configuration is confirmed, killed in the midst of it and resumed: as a user starts it, on a running cluster."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from ray_head import RayHead
from sklearn.metrics import roc_auc_score
from sweep_command import Start, alive, end

from hvqray.results.confirm_store import read_confirm_runs
from hvqray.training.checkpoint import load_model, trial_folder

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SEEDS = (1, 2, 3)
NUM_EPOCHS = 12


def test_killed_in_its_confirmation_it_goes_on_and_every_run_can_be_repeated(
    start: Start, cluster: RayHead, tmp_path: Path, shared_cache: Path
) -> None:
    options = ("--address", cluster.address, "--num-trials", "2", "--set", "confirm.top_k=1")
    options += ("--set", f"confirm.seeds={list(SEEDS)}", "--set", f"train.epochs={NUM_EPOCHS}")
    # Said to the sweep, not left to its environment, which the cluster's processes do not see: features that another process
    # has computed may differ in their last bits.
    options += ("--set", "baselines=[padim]", "--cache-dir", str(shared_cache))
    first = start(*options)
    first.wait_for("-s1 COMPLETE")
    processes = first.descendants()
    first.process.kill()
    first.wait()
    end(alive(processes))
    done = read_confirm_runs(first.folder)
    assert done
    assert not (first.folder / "best").exists()

    second = start(*options, "--resume")
    assert second.wait() == 0, second.log.read_text()
    log = second.log.read_text()
    best = json.loads((second.folder / "best" / "metrics.json").read_text())
    (confirmed,) = best["confirm"]
    runs = [f"{confirmed['trial_id']}-s{seed}" for seed in SEEDS]
    assert (confirmed["seeds"], confirmed["run_ids"], confirmed["failed"]) == (list(SEEDS), runs, {})
    assert set(re.findall(r"^(\S+) started", log, re.MULTILINE)) == set(runs) - done.keys()
    assert len(second.trials()) == 2, "retraining is no trial of the search"
    assert second.states() == ["COMPLETE"] * 2

    values = confirmed["metrics"]["val/image_auroc"]["values"]
    assert best["run_id"] == runs[values.index(max(values))]
    assert best["metrics"]["val/image_auroc"] == max(values)
    assert_auroc_is_that_of_the_scores(second.folder / "best", best["metrics"])
    shown = confirmed["metrics"]["test/image_auroc"]
    assert f"{shown['mean']:.4f} ± {shown['std']:.4f}" in log
    assert f"{shown['low']:.4f} to {shown['high']:.4f}" in log
    assert 'id="confirmed"' in (second.folder / "report.html").read_text()

    (baseline,) = best["baselines"]
    assert baseline["name"] == "padim"
    assert 0 <= baseline["metrics"]["test/pixel_aupro"] <= 1
    assert "against PaDiM: " in log

    out = tmp_path / "again"
    trial = f"{second.folder}:{runs[-1]}"
    # A process of its own, as a user's: what ran in this one before can change the last bits of its arithmetic.
    command = [sys.executable, "-m", "hvqray.train", "--trial", trial, "--out", str(out)]
    subprocess.run([*command, "--cache-dir", str(shared_cache)], check=True, timeout=300)
    original, again = load_model(trial_folder(second.folder, runs[-1])), load_model(out)
    assert again.config.train.seed == SEEDS[-1]
    assert again.metrics["metrics"] == original.metrics["metrics"]
    state = again.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in original.model.state_dict().items())


def assert_auroc_is_that_of_the_scores(best: Path, metrics: dict[str, Any]) -> None:
    table = pq.read_table(best / "test_scores.parquet").to_pandas()
    for class_name, images in table.groupby("class_name"):
        expected = roc_auc_score(images.is_anomalous, images.score)
        assert metrics[f"test/{class_name}/image_auroc"] == pytest.approx(expected, abs=1e-9)
