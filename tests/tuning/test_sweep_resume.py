"""A sweep that is interrupted and resumed, as a user starts it: first on a local Ray cluster of its own, then on another one."""

from __future__ import annotations

import os
import re
import signal
import time

import pyarrow.parquet as pq
import pytest
import torch
from ray_head import RayHead
from sweep_command import Start, alive

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

NUM_EPOCHS = 40


def test_interrupted_then_resumed_nothing_is_lost_or_repeated(start: Start, cluster: RayHead) -> None:
    options = ("--num-trials", "4", "--set", f"train.epochs={NUM_EPOCHS}")
    first = start(*options)
    first.wait_for(f"t0002 epoch 2/{NUM_EPOCHS}")
    processes = first.descendants()
    asked = time.monotonic()
    os.kill(first.process.pid, signal.SIGINT)
    assert first.wait(60) == 130
    assert time.monotonic() - asked < 20
    assert "go on with --resume" in first.log.read_text()
    assert "Traceback" not in first.log.read_text()
    assert not alive(processes)
    before = first.trials()
    assert 1 <= len(before) < 4
    states = (first.folder / ".state" / "trials").glob("*/last.pt")
    done = {path.parent.name: torch.load(path, weights_only=True)["epochs_done"] for path in states}
    assert done, "the running trials left their checkpoints"

    second = start(*options, "--resume", "--address", cluster.address)
    assert second.wait() == 0, second.log.read_text()
    after = second.trials()
    assert [row["number"] for row in after] == [0, 1, 2, 3]
    assert [row for row in after if row["number"] in {old["number"] for old in before}] == before
    assert second.states() == ["COMPLETE"] * 4
    epochs = pq.read_table(second.folder / "metrics.parquet").to_pandas()
    for trial, epochs_done in done.items():
        losses = epochs[(epochs.trial_id == trial) & (epochs.metric == "loss")]
        assert sorted(losses.epoch) == list(range(1, NUM_EPOCHS + 1))
        told = re.findall(rf"^{trial} epoch (\d+)/{NUM_EPOCHS}", second.log.read_text(), re.MULTILINE)
        assert int(told[0]) == epochs_done, "it goes on from its last checkpoint"
