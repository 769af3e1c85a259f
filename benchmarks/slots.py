"""Trials per hour against the number of slots that share a machine's cores, or its GPU; threads and memory in each."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.commands import TRIVIAL, run_sweep, workplace, write_small_set
from benchmarks.measure import print_table, quick_flag

SPACE = {name: TRIVIAL[name] for name in ("method", "metric", "parameters")} | {
    "model": {"name": "hvq"},
    "data": {"backbone": {"weights": "random"}},
    "train": {"epochs": 1, "batch_size": 16, "images_per_epoch": 160},
}
"""HVQ-Trans at its default size; ten steps and an evaluation a trial."""
TRIALS_PER_SLOT = 4


def main(argv: Sequence[str] | None = None) -> None:
    quick = quick_flag("slots: trials per hour against trials at once", argv)
    rows = []
    with workplace() as folder:
        data = write_small_set(folder / "data") if quick else None
        for number, resources in enumerate(_resources(quick=quick)):
            rows.append(_measure(folder, number, data, resources, quick=quick))
    header = (
        "slots",
        "cores each",
        "GPUs each",
        "trials/hour",
        "against the first",
        "running threads: median, 95 %",
        "trial MB, peak",
        "GPU MB, peak",
    )
    first = float(rows[0][3])
    print_table(header, [[*row[:3], f"{row[3]:.0f}", f"{row[3] / first:.2f}", *row[4:]] for row in rows])


def _resources(*, quick: bool) -> list[dict[str, Any]]:
    """All cores in one slot, one core in one slot, then more and more slots of one core; with a GPU, shares of it."""
    cores = len(os.sched_getaffinity(0))
    counts = sorted({min(2**power, cores) for power in range(math.ceil(math.log2(cores)) + 1)})
    if quick:
        return [{"max_concurrent_trials": 1, "cpus_per_worker": 1, "gpus_per_worker": 0}]
    plans: list[dict[str, Any]] = [
        {"max_concurrent_trials": 1, "cpus_per_worker": cores, "gpus_per_worker": 0}
    ]
    plans += [{"max_concurrent_trials": n, "cpus_per_worker": 1, "gpus_per_worker": 0} for n in counts]
    if torch.cuda.is_available():
        shares = [n for n in (1, 2, 4, 8) if n <= cores]
        plans += [
            {"max_concurrent_trials": n, "cpus_per_worker": cores // n, "gpus_per_worker": 1 / n}
            for n in shares
        ]
    return plans


def _measure(
    folder: Path, number: int, data: Path | None, resources: Mapping[str, Any], *, quick: bool
) -> list[Any]:
    slots = resources["max_concurrent_trials"]
    num_trials = 2 if quick else TRIALS_PER_SLOT * max(slots, 2)
    space = (TRIVIAL if quick else SPACE) | {"resources": dict(resources)}
    done = run_sweep(
        space, folder=folder / f"plan{number}", data=data, cache=folder / "cache", num_trials=num_trials
    )
    # From a step of the first trials to the last step of all; the start of Ray is not in it.
    times = [time for time, _ in done.steps]
    per_trial = len(times) / num_trials
    per_hour = 3600 * (len(times) - 1) / per_trial / (times[-1] - times[0])
    busy = [
        running
        for running, held in zip(done.samples.running_threads, done.samples.trial_bytes, strict=True)
        if held
    ]
    threads = f"{np.median(busy):.0f}, {np.percentile(busy, 95):.0f}" if busy else "-"
    gpu = f"{max(done.samples.gpu_bytes) / 1e6:.0f}" if done.samples.gpu_bytes else "-"
    trial_mb = f"{max(done.samples.trial_bytes) / 1e6:.0f}"
    return [
        slots,
        resources["cpus_per_worker"],
        resources["gpus_per_worker"],
        per_hour,
        threads,
        trial_mb,
        gpu,
    ]


if __name__ == "__main__":
    main()
