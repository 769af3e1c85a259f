"""The gap between two trials in one slot: last step of one to first step of the next, with one worker and with two.

The gap holds what lies between two steps: the last evaluation and checkpoint of one trial, the search, and the start of the
next; the trials are so small that their own part is some hundredths of a second. Target: 1 second.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import TRIVIAL, gaps, run_command, run_sweep, workplace, write_small_set
from benchmarks.measure import print_table, quick_flag, spread
from hvqray.config.yaml_loader import dump_yaml

NUM_TRIALS, NUM_REFERENCE_TRIALS = 10, 4


def main(argv: Sequence[str] | None = None) -> None:
    quick = quick_flag(
        "trial gap: one Ray Train start per trial against this project's reused processes", argv
    )
    rows = []
    with workplace() as folder:
        data = write_small_set(folder / "data")
        for workers in (1,) if quick else (1, 2):
            ours = np.array(_ours(folder, data, workers=workers, num_trials=3 if quick else NUM_TRIALS))
            num_reference = 2 if quick else NUM_REFERENCE_TRIALS
            reference = np.array(reference_gaps(folder, data, workers=workers, num_trials=num_reference))
            ratio = np.median(reference) / np.median(ours)
            rows.append([workers, spread(reference), spread(ours), f"{ratio:.0f}", f"{ours.max():.2f}"])
    print_table(("workers", "Train start per trial, s", "ours, s", "ratio", "our longest, s"), rows)


def _ours(folder: Path, data: Path, *, workers: int, num_trials: int) -> list[float]:
    space: dict[str, Any] = TRIVIAL | {
        "resources": {"workers": workers, "cpus_per_worker": 1, "max_concurrent_trials": 1}
    }
    done = run_sweep(
        space, folder=folder / f"ours-{workers}", data=data, cache=folder / "cache", num_trials=num_trials
    )
    return gaps(done.steps, per_trial=workers)


def reference_gaps(folder: Path, data: Path, *, workers: int, num_trials: int) -> list[float]:
    """Gaps of trivial trials that each start Ray Train, in seconds."""
    place = folder / f"reference-{workers}"
    place.mkdir()
    config = {name: dict(TRIVIAL[name]) for name in ("model", "data", "train")}
    config["data"]["root"] = str(data)
    (place / "run.yaml").write_text(dump_yaml(config))
    arguments = ["-m", "benchmarks.train_per_trial", str(place / "run.yaml"), str(place / "out.json")]
    arguments += [
        "--workers",
        str(workers),
        "--trials",
        str(num_trials),
        "--cache-dir",
        str(folder / "cache"),
    ]
    return gaps(run_command(arguments, folder=place).steps, per_trial=workers)


if __name__ == "__main__":
    main()
