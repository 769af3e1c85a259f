"""How every benchmark measures and prints: interleaved rounds, medians with spread, and the machine's own limits.

Two computations are compared by the ratio of their seconds *within a round*, for a machine's speed drifts (other work,
clock rates) by more than what is looked for; the median of these ratios over the rounds is what is told.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from hvqray.environment import all_gpus, code_version, hardware, library_versions

BUSY_LOAD = 1.0
"""Runnable processes (1-minute mean) from which on figures are marked as taken on a busy machine."""
Work = Callable[[], object]


class Rounds:
    """Seconds of several pieces of work, each of which ran once in every round."""

    def __init__(self, seconds: Mapping[str, Sequence[float]]) -> None:
        self._seconds = {name: np.asarray(values) for name, values in seconds.items()}

    def seconds(self, name: str) -> float:
        """Median over the rounds."""
        return float(np.median(self._seconds[name]))

    def ratio(self, slow: str, fast: str) -> str:
        """Seconds of `slow` over those of `fast`: median of the rounds' ratios, and their quartiles."""
        return spread(self._seconds[slow] / self._seconds[fast])

    def share_of_rate(self, name: str, amount: float, probe: str, probe_amount: float) -> str:
        """Rate of `name` (amount a second) in per cent of the probe's, round by round, with quartiles."""
        rate = amount / self._seconds[name]
        limit = probe_amount / self._seconds[probe]
        return f"{spread(100 * rate / limit)} %"


def spread(values: np.ndarray) -> str:
    """`median (lower quartile to upper quartile)`."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def interleave(works: Mapping[str, Work], *, rounds: int, device: str = "cpu") -> Rounds:
    """Run every work once uncounted, then `rounds` times in turn, in an order that is rotated from round to round."""
    names = list(works)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        works[name]()
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            seconds[name].append(timed(works[name], device=device))
    return Rounds(seconds)


def timed(work: Work, *, device: str = "cpu") -> float:
    """Seconds that `work` takes, the device's queue included."""
    wait_for(device)
    start = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - start


def wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def count_flops(work: Work) -> int:
    """Floating-point operations of the matrix products and convolutions in `work` (a multiply-add is two)."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


class Limits:
    """What the machine can do, as work to be interleaved with what is measured: square matrix products and a copy."""

    def __init__(self, device: str, *, quick: bool) -> None:
        side = (8192 if device == "cuda" else 2048) if not quick else 256
        self._size = side
        self.flops = 2 * side**3
        """Operations of one product."""
        numel = (2**28 if device == "cuda" else 2**25) if not quick else 2**18
        self.copied_bytes = 2 * 4 * numel
        """Bytes read and written by one copy."""
        source, target = torch.ones(numel, device=device), torch.empty(numel, device=device)
        self.works: dict[str, Work] = {"limit copy": partial(target.copy_, source)}
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            a, b, out = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(3))
            self.works[f"limit {name}"] = partial(torch.mm, a, b, out=out)

    def describe(self, rounds: Rounds) -> str:
        """One line: the rates measured, medians."""
        return (
            f"limits ({self._size} x {self._size} products): fp32 {self.flops / rounds.seconds('limit fp32') / 1e9:.0f} GFLOP/s, "
            f"bf16 {self.flops / rounds.seconds('limit bf16') / 1e9:.0f} GFLOP/s, "
            f"copy {self.copied_bytes / rounds.seconds('limit copy') / 1e9:.1f} GB/s"
        )


def devices() -> list[str]:
    """`cpu`, and `cuda` where there is a GPU."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def quick_flag(purpose: str, argv: Sequence[str] | None) -> bool:
    """Read a benchmark's command line, whose one option is --quick, and print what its figures were taken on."""
    parser = argparse.ArgumentParser(description=purpose)
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that it runs, the figures mean nothing"
    )
    quick = bool(parser.parse_args(argv).quick)
    load = os.getloadavg()[0]
    busy = ", BUSY: trust ratios only" if load > BUSY_LOAD else ""
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    print(f"# {purpose}\n")
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, hvqray {code_version()}, {hardware(all_gpus())}, {torch.get_num_threads()} threads, ",
        end="",
    )
    print(f"load {load:.1f}{busy}; {versions}" + ("; QUICK: figures mean nothing" if quick else "") + "\n")
    return quick


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table, as README.md keeps it."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        cells = [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row]
        print("| " + " | ".join(cells) + " |")
    print(flush=True)
