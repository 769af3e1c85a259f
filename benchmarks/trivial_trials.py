"""300 trivial trials: what a trial costs beyond its own work, and whether the memory of driver and workers stays bounded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.commands import TRIVIAL, run_sweep, workplace, write_small_set
from benchmarks.measure import print_table, quick_flag

NUM_TRIALS = 300


def main(argv: Sequence[str] | None = None) -> None:
    quick = quick_flag("trivial trials: cost of a trial beyond its own work, and memory", argv)
    rows = []
    with workplace() as folder:
        data = write_small_set(folder / "data")
        for method in ("random",) if quick else ("random", "bayes"):
            num_trials = 4 if quick else NUM_TRIALS
            done = run_sweep(
                TRIVIAL | {"method": method},
                folder=folder / method,
                data=data,
                cache=folder / "cache",
                num_trials=num_trials,
            )
            trials = done.trials()
            assert [trial["state"] for trial in trials] == ["COMPLETE"] * num_trials
            slots = len({pid for _, pid in done.steps})
            # Each slot's first trial starts its process; from then on all slots are filled.
            times = [time for time, _ in done.steps][slots:]
            wall = (times[-1] - times[0]) / (len(times) - 1)
            own = float(np.median([trial["duration_s"] for trial in trials])) / slots
            samples = done.samples
            rows.append(
                [
                    method,
                    num_trials,
                    slots,
                    done.seconds,
                    wall,
                    own,
                    wall - own,
                    _growth(samples.driver_bytes),
                    _growth([held for held in samples.trial_bytes if held]),
                ]
            )
    header = (
        "method",
        "trials",
        "slots",
        "command s",
        "s/trial",
        "own work s/trial",
        "beyond own work s/trial (target 0.1)",
    )
    print_table((*header, "driver MB: middle, end, peak", "largest worker MB: middle, end, peak"), rows)


def _growth(held: list[int]) -> str:
    """At the middle and the end of the command, and at the most; `-` where it ended before a look was taken."""
    return (
        ", ".join(f"{value / 1e6:.0f}" for value in (held[len(held) // 2], held[-1], max(held)))
        if held
        else "-"
    )


if __name__ == "__main__":
    main()
