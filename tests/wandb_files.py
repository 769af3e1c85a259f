"""A sink for W&B, and its offline files, read with wandb's own reader."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fake_sweep import OBJECTIVE

from hvqray.results.wandb_sink import WandbSink


def new_sink(folder: Path, said: list[str], **more: Any) -> WandbSink:
    """An offline sink of the sweep "my sweep", unless `more` says otherwise."""
    settings: dict[str, Any] = {
        "mode": "offline",
        "sweep_name": "my sweep",
        "sweep_uid": "0badcafe",
        "goals": {OBJECTIVE: "maximize"},
        "project": "anomalies",
        "entity": None,
        "tell": said.append,
    }
    return WandbSink(folder, **settings | more)


def offline_runs(folder: Path) -> list[str]:
    """The runs' ids, sorted, without the sweep's."""
    return sorted(path.name.rpartition("-")[2] for path in (folder / "wandb").glob("offline-run-*"))


@functools.cache
def records(folder: Path, trial_id: str) -> list[dict[str, Any]]:
    """All that the run of a trial holds."""
    (path,) = (folder / "wandb").glob(f"offline-run-*-{trial_id}")
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_kind(found: list[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    return (record[kind] for record in found if record["type"] == kind)
