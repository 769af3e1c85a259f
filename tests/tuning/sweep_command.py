"""The sweep command as a user starts it, in a process group of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import psutil
import pyarrow.parquet as pq
from ray_head import RayHead, environment_without_ray
from small_images import SPACE, write_space

ONE_AT_A_TIME = ("--set", "resources.max_concurrent_trials=1")
"""One process trains all trials in turn; a second one would double what a sweep costs."""


class Sweep:
    """A sweep command in a process group of its own, its output in a file."""

    def __init__(self, folder: Path, images: Path, cache: Path, *options: str, space: str = SPACE) -> None:
        self.folder = folder / "runs" / "small"
        self.log = folder / f"log{time.monotonic_ns()}.txt"
        environment = environment_without_ray()
        environment |= {"HVQRAY_CACHE_DIR": str(cache), "PYTHONUNBUFFERED": "1", "RAY_AUTH_MODE": "disabled"}
        command = [
            sys.executable,
            "-m",
            "hvqray.sweep",
            str(write_space(folder, space)),
            "--data",
            str(images),
        ]
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [*command, "--out", str(folder / "runs"), "--wandb", "disabled", *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                # A shell that runs the tests in the background has them ignore Ctrl-C, which children inherit.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
            )

    def wait(self, timeout_s: float = 540) -> int:
        return self.process.wait(timeout_s)

    def wait_for(self, text: str, timeout_s: float = 540) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def trials(self) -> list[dict]:
        return sorted(
            pq.read_table(self.folder / "trials.parquet").to_pylist(), key=lambda row: row["number"]
        )

    def states(self) -> list[str]:
        (name,) = optuna.get_all_study_names(f"sqlite:///{self.folder / 'study.db'}")
        study = optuna.load_study(study_name=name, storage=f"sqlite:///{self.folder / 'study.db'}")
        return [trial.state.name for trial in study.get_trials(deepcopy=False)]


Start = Callable[..., Sweep]
RunHere = Callable[..., tuple[int, str]]


def end(processes: list[psutil.Process]) -> None:
    """Kill what still runs of `processes`."""
    for process in processes:
        if process.is_running():
            process.kill()


def alive(processes: list[psutil.Process], *, within_s: float = 20) -> list[psutil.Process]:
    """Those that still run after `within_s` seconds."""
    return psutil.wait_procs(processes, timeout=within_s)[1]


def assert_nothing_left(cluster: RayHead) -> None:
    """No actor of ours lives on, and every CPU is free again."""
    deadline = time.monotonic() + 60
    while cluster.processes("HvqrayTrial") or cluster.processes("RayTrainWorker") or cluster.free_cpus() < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
