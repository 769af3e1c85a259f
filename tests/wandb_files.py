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
    """The runs' ids, a run's as often as it has files, sorted, without the sweep's."""
    logs = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    return sorted(path.stem.split("-", 2)[2] for path in logs)


@functools.cache
def records(folder: Path, trial_id: str) -> list[dict[str, Any]]:
    """All that the run of a trial holds."""
    (log,) = (folder / "wandb").glob(f"offline-run-*/run-*-{trial_id}.wandb")
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log.parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def summary_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What its records leave of a run's summary."""
    return {name: value for each in of_kind(found, "summary") for name, value in each["update"].items()}


def of_kind(found: list[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    return (record[kind] for record in found if record["type"] == kind)
