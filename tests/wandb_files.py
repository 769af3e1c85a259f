"""Offline files of W&B, read with wandb's own reader."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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
