"""Whole commands as a user starts them, with the times of their training steps and the memory of their processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import torch

from hvqray.config.yaml_loader import dump_yaml
from hvqray.data.synthetic import write_synthetic

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_EVERY_S = 0.5
TRIAL_TITLE = "HvqrayTrial"
"""In the title that Ray gives a trial's process."""

TRIVIAL: dict[str, Any] = {
    "method": "random",
    "metric": {"name": "val/image_auroc", "goal": "maximize"},
    "parameters": {"train.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}},
    "model": {
        "name": "hvq",
        "width": 8,
        "num_heads": 2,
        "feedforward_width": 8,
        "hierarchy_depth": 1,
        "codebook_size": 8,
        "codebook_init": "normal",
    },
    "data": {"image_size": 64, "backbone": {"weights": "random"}},
    "train": {"epochs": 1, "batch_size": 16, "images_per_epoch": 16, "precision": "fp32"},
}
"""A sweep whose trials make one step each and evaluate a few small images: what is left is the cost of having trials."""


@dataclass
class Samples:
    """What a command's processes held and did, looked at every `SAMPLE_EVERY_S`."""

    driver_bytes: list[int] = field(default_factory=list)
    trial_bytes: list[int] = field(default_factory=list)
    """Resident memory of the largest trial process; 0 while there is none."""
    running_threads: list[int] = field(default_factory=list)
    """Threads of all trial processes that compute or wait for a core."""
    gpu_bytes: list[int] = field(default_factory=list)
    """Memory in use on the first GPU, by whatever process."""

    def add(self, command: psutil.Process) -> None:
        trial_bytes, running = [0], 0
        with contextlib.suppress(psutil.Error, FileNotFoundError, ProcessLookupError):
            self.driver_bytes.append(command.memory_info().rss)
            for child in command.children(recursive=True):
                if TRIAL_TITLE in " ".join(child.cmdline()):
                    trial_bytes.append(child.memory_info().rss)
                    states = Path(f"/proc/{child.pid}/task").glob("*/stat")
                    running += sum(state.read_text().rpartition(")")[2].split()[0] == "R" for state in states)
        self.trial_bytes.append(max(trial_bytes))
        self.running_threads.append(running)
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            self.gpu_bytes.append(total - free)


@dataclass(frozen=True)
class Finished:
    """A command that has ended well."""

    started: float
    """Seconds since the epoch, as those of the steps."""
    seconds: float
    steps: list[tuple[float, int]]
    """(time, process id) of every optimisation step, in order of time."""
    samples: Samples
    folder: Path

    def trials(self) -> list[dict[str, Any]]:
        """The rows of trials.parquet, in the order of their numbers."""
        rows: list[dict[str, Any]] = pq.read_table(self.folder / "trials.parquet").to_pylist()
        return sorted(rows, key=lambda row: row["number"])


def run_command(arguments: Sequence[str], *, folder: Path) -> Finished:
    """Run `python ARGUMENTS` in the checkout, watched until it ends.

    Raises:
        RuntimeError: it failed; with the end of its output.
    """
    log, output = folder / f"steps-{time.time_ns()}.txt", folder / "output.txt"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "WANDB_"))}
    paths = [str(ROOT / "benchmarks" / "step_clock"), str(ROOT)]
    environment = kept | {"PYTHONPATH": os.pathsep.join(paths), "HVQRAY_STEP_CLOCK": str(log)}
    samples, started, begun = Samples(), time.time(), time.perf_counter()
    with output.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=stream, stderr=stream
        )
        watched = psutil.Process(process.pid)
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(SAMPLE_EVERY_S)
                break
            samples.add(watched)
    seconds = time.perf_counter() - begun
    if code:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{output.read_text()[-2000:]}")
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    steps = sorted((float(line.split()[0]), int(line.split()[1])) for line in lines)
    return Finished(started, seconds, steps, samples, folder)


def write_small_set(folder: Path) -> Path:
    """A few images of every synthetic class."""
    return write_synthetic(folder, num_train=4, num_test_good=2, num_test_defect=2)


def gaps(steps: Sequence[tuple[float, int]], *, per_trial: int) -> list[float]:
    """Seconds from the last step of a trial to the first of the next, where one trial runs at a time.

    `per_trial` counts the steps of all processes of a trial.
    """
    times = [time for time, _ in steps]
    assert len(times) % per_trial == 0, f"{len(times)} steps are not those of whole trials"
    return [times[i] - times[i - 1] for i in range(per_trial, len(times), per_trial)]


def run_sweep(
    space: Mapping[str, Any], *, folder: Path, data: Path | None, cache: Path, num_trials: int
) -> Finished:
    """Run a sweep of `space` (a sweep file's content) in `folder`; `data` is None for the synthetic set."""
    folder.mkdir(parents=True)
    file = folder / "space.yaml"
    file.write_text(dump_yaml({"name": "sweep", **space}))
    arguments = ["-m", "hvqray.sweep", str(file), "--out", str(folder), "--wandb", "disabled"]
    arguments += ["--num-trials", str(num_trials), "--cache-dir", str(cache)]
    arguments += ["--data", str(data)] if data else []
    done = run_command(arguments, folder=folder)
    return replace(done, folder=folder / "sweep")


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="hvqray-benchmark-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
