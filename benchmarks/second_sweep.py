"""A second sweep over the same data: time to its first step against importing torch and starting Ray alone.

Target: 1.5 times. What the sweep does besides: reading the cache, planning, starting a trial's process, k-means for the first codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.commands import ROOT, TRIVIAL, run_command, run_sweep, workplace, write_small_set
from benchmarks.measure import print_table, quick_flag, spread
from hvqray.config.yaml_loader import load_yaml

ROUNDS = 5
ALONE = """
import logging, sys, time
from hvqray.tuning.ray_runtime import quieten_ray
quieten_ray()
import torch, ray
ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
open(sys.argv[1], "w").write(str(time.time()))
"""


def main(argv: Sequence[str] | None = None) -> None:
    quick = quick_flag("second sweep: first step against importing torch and starting Ray alone", argv)
    space = TRIVIAL if quick else load_yaml(ROOT / "search_spaces" / "hvq.yaml")
    space = space | {
        "train": {**space["train"], "epochs": 2, "images_per_epoch": 16},
        "early_terminate": None,
    }
    alone, second, whole = [], [], []
    with workplace() as folder:
        data = write_small_set(folder / "data") if quick else None
        first = run_sweep(space, folder=folder / "first", data=data, cache=folder / "cache", num_trials=1)
        for number in range(1 if quick else ROUNDS):
            alone.append(_start_alone(folder))
            done = run_sweep(
                space, folder=folder / f"second{number}", data=data, cache=folder / "cache", num_trials=1
            )
            second.append(done.steps[0][0] - done.started)
            whole.append(done.seconds)
    ratios = np.array(second) / np.array(alone)
    print_table(
        (
            "torch and Ray alone s",
            "second sweep, first step s",
            "ratio (target 1.5)",
            "second sweep of one trial, whole s",
            "first sweep, first step s",
        ),
        [
            [
                spread(np.array(alone)),
                spread(np.array(second)),
                spread(ratios),
                spread(np.array(whole)),
                first.steps[0][0] - first.started,
            ]
        ],
    )


def _start_alone(folder: Path) -> float:
    note = folder / "alone.txt"
    done = run_command(["-c", ALONE, str(note)], folder=folder)
    return float(note.read_text()) - done.started


if __name__ == "__main__":
    main()
