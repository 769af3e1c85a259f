"""A W&B server that never answers, and a sweep that is interrupted."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import wandb
from fake_sweep import play
from wandb_files import new_sink

from hvqray.results import wandb_sink


@pytest.mark.parametrize("hangs", [True, False])
def test_an_interrupted_sweep_waits_for_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    over, torn_down = threading.Event(), threading.Event()

    def init(**arguments: Any) -> Any:
        over.wait(60 if hangs else 0)
        raise ConnectionError("no server")

    def teardown() -> None:
        torn_down.set()
        over.wait(60)

    monkeypatch.setenv("WANDB_ERROR_REPORTING", "")
    monkeypatch.delenv("WANDB_ERROR_REPORTING")
    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "teardown", teardown)
    monkeypatch.setattr(wandb_sink, "_TEARDOWN_S", 0.1)
    said: list[str] = []
    sink = new_sink(tmp_path, said, mode="online")
    assert os.environ["WANDB_ERROR_REPORTING"] == "false", "its reports wait for the server, too"
    play(sink, 0)
    began = time.monotonic()
    sink.abandon(timeout_s=0.2 if hangs else 30)
    assert time.monotonic() - began < 20
    assert torn_down.wait(5), "its exit hook would wait for the server"
    if hangs:
        assert said == ["W&B: not everything was sent within 0 s (the results on disk are complete)"]
    over.set()
