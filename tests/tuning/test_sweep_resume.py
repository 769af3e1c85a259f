"""A sweep that is interrupted or killed, and resumed: as a user starts it, each on a local Ray cluster of its own."""

from __future__ import annotations

import os
import re
import signal
import time

import pyarrow.parquet as pq
import pytest
import torch
from sweep_command import Start, alive, end

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def test_interrupted_then_resumed_nothing_is_lost_or_repeated(start: Start) -> None:
    options = ("--num-trials", "4", "--set", "train.epochs=80")
    first = start(*options)
    first.wait_for("COMPLETE")
    first.wait_for("epoch 5/80")
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

    second = start(*options, "--resume")
    assert second.wait() == 0, second.log.read_text()
    after = second.trials()
    assert [row["number"] for row in after] == [0, 1, 2, 3]
    assert [row for row in after if row["number"] in {old["number"] for old in before}] == before
    assert second.states() == ["COMPLETE"] * 4
    epochs = pq.read_table(second.folder / "metrics.parquet").to_pandas()
    for trial, epochs_done in done.items():
        losses = epochs[(epochs.trial_id == trial) & (epochs.metric == "loss")]
        assert sorted(losses.epoch) == list(range(1, 81))
        told = re.findall(rf"^{trial} epoch (\d+)/80", second.log.read_text(), re.MULTILINE)
        assert int(told[0]) == epochs_done, "it goes on from its last checkpoint"


def test_killed_driver_is_resumed(start: Start) -> None:
    options = ("--num-trials", "3", "--set", "train.epochs=60")
    first = start(*options)
    first.wait_for("COMPLETE")
    first.wait_for("epoch 5/60")
    processes = first.descendants()
    first.process.kill()
    first.wait()
    end(alive(processes))
    done = sum("COMPLETE" in line for line in first.log.read_text().splitlines())
    second = start(*options, "--resume")
    assert second.wait() == 0, second.log.read_text()
    assert [row["state"] for row in second.trials()] == ["COMPLETE"] * 3
    assert second.states() == ["COMPLETE"] * 3
    completed_again = sum("COMPLETE after" in line for line in second.log.read_text().splitlines())
    assert completed_again == 3 - done
    assert (second.folder / "report.html").stat().st_size > 1_000_000
