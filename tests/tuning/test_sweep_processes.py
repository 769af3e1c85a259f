"""Whole sweeps as a user starts them, on real Ray: interrupted, killed, resumed, with two workers, with failing trials."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import psutil
import pyarrow.parquet as pq
import pytest
from ray_head import RayHead, environment_without_ray
from small_images import SPACE, write_space

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


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

    def wait(self, timeout_s: float = 300) -> int:
        return self.process.wait(timeout_s)

    def wait_for(self, text: str, timeout_s: float = 240) -> None:
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


@pytest.fixture
def start(tmp_path: Path, small_images: Path, shared_cache: Path) -> Iterator[Start]:
    """Starts sweeps, and ends whatever a failed test leaves of them."""
    sweeps: list[Sweep] = []

    def begin(*options: str, space: str = SPACE) -> Sweep:
        sweeps.append(Sweep(tmp_path, small_images, shared_cache, *options, space=space))
        return sweeps[-1]

    yield begin
    for sweep in sweeps:
        if sweep.process.poll() is None:
            _end([*sweep.descendants(), psutil.Process(sweep.process.pid)])


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        if process.is_running():
            process.kill()


def _alive(processes: list[psutil.Process], *, within_s: float = 20) -> list[psutil.Process]:
    return psutil.wait_procs(processes, timeout=within_s)[1]


def test_interrupted_then_resumed_nothing_is_lost_or_repeated(start: Start) -> None:
    options = ("--num-trials", "4", "--set", "train.epochs=80")
    first = start(*options)
    first.wait_for("COMPLETE")
    first.wait_for("epoch 5/80")
    processes = first.descendants()
    asked = time.monotonic()
    os.kill(first.process.pid, signal.SIGINT)
    assert first.wait(60) == 130
    assert time.monotonic() - asked < 20
    assert "go on with --resume" in first.log.read_text()
    assert "Traceback" not in first.log.read_text()
    assert not _alive(processes)
    before = first.trials()
    assert 1 <= len(before) < 4
    states = list((first.folder / ".state" / "trials").glob("*/last.pt"))
    assert states, "the running trials left their checkpoints"

    second = start(*options, "--resume")
    assert second.wait() == 0, second.log.read_text()
    after = second.trials()
    assert [row["number"] for row in after] == [0, 1, 2, 3]
    assert [row for row in after if row["number"] in {old["number"] for old in before}] == before
    assert second.states() == ["COMPLETE"] * 4
    resumed = {path.parent.name for path in states}
    epochs = pq.read_table(second.folder / "metrics.parquet").to_pandas()
    for trial in resumed:
        losses = epochs[(epochs.trial_id == trial) & (epochs.metric == "loss")]
        assert sorted(losses.epoch) == list(range(1, 81))
        assert f"{trial} epoch 1/80" not in second.log.read_text()


def test_killed_driver_is_resumed(start: Start) -> None:
    options = ("--num-trials", "3", "--set", "train.epochs=60")
    first = start(*options)
    first.wait_for("COMPLETE")
    first.wait_for("epoch 5/60")
    processes = first.descendants()
    first.process.kill()
    first.wait()
    _end(_alive(processes))
    done = sum("COMPLETE" in line for line in first.log.read_text().splitlines())
    second = start(*options, "--resume")
    assert second.wait() == 0, second.log.read_text()
    assert [row["state"] for row in second.trials()] == ["COMPLETE"] * 3
    assert second.states() == ["COMPLETE"] * 3
    completed_again = sum("COMPLETE after" in line for line in second.log.read_text().splitlines())
    assert completed_again == 3 - done
    assert (second.folder / "report.html").stat().st_size > 1_000_000


def test_two_workers_a_trial_in_one_group_that_lives_on(start: Start, cluster: RayHead) -> None:
    sweep = start("--address", cluster.address, "--set", "resources.workers=2", "--set", "train.epochs=3")
    sweep.wait_for("t0000 COMPLETE")
    workers = {process.pid for process in cluster.processes("RayTrainWorker")}
    sweep.wait_for("t0002 epoch 1/3")
    later = {process.pid for process in cluster.processes("RayTrainWorker")}
    assert sweep.wait() == 0, sweep.log.read_text()
    assert [row["state"] for row in sweep.trials()] == ["COMPLETE"] * 3
    assert len(workers) == 2
    assert later == workers
    assert_nothing_left(cluster)


def test_failing_trials_are_shown_and_harm_no_other(start: Start, cluster: RayHead) -> None:
    searched = "train.lr: {distribution: log_uniform_values, min: 1e-3, max: 1e-2}"
    space = SPACE.replace(searched, "train.lr: {values: [1e-3, 1e30]}").replace(
        "method: random", "method: grid"
    )
    space = space.replace("precision: fp32", "precision: fp32, gradient_clip: null")
    sweep = start("--address", cluster.address, "--num-trials", "4", space=space)
    assert sweep.wait() == 0, sweep.log.read_text()
    rows = sweep.trials()
    failed = {json.loads(row["params"])["train.lr"] for row in rows if row["state"] == "FAIL"}
    fine = {json.loads(row["params"])["train.lr"] for row in rows if row["state"] == "COMPLETE"}
    assert (failed, fine) == ({1e30}, {1e-3})
    assert all("diverged in epoch" in row["error"] for row in rows if row["state"] == "FAIL")
    assert sorted(sweep.states()) == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]


def test_without_a_completed_trial_the_sweep_ends_with_1(start: Start, cluster: RayHead) -> None:
    options = ("--set", "train.lr=1e30", "--set", "train.gradient_clip=null")
    sweep = start("--address", cluster.address, "--num-trials", "1", *options)
    assert sweep.wait() == 1, sweep.log.read_text()
    assert [row["state"] for row in sweep.trials()] == ["FAIL"]


def test_time_ends_a_sweep(start: Start, cluster: RayHead) -> None:
    options = ("--time-budget", "40s", "--num-trials", "500", "--set", "train.epochs=100")
    sweep = start("--address", cluster.address, *options)
    assert sweep.wait(200) == 0, sweep.log.read_text()
    assert 0 < len(sweep.trials()) < 500
    assert "RUNNING" not in sweep.states()
    assert_nothing_left(cluster)


def test_a_trial_whose_process_dies_goes_on_from_its_checkpoint(start: Start, cluster: RayHead) -> None:
    sweep = start("--address", cluster.address, "--num-trials", "1", "--set", "train.epochs=200")
    sweep.wait_for("epoch 20/200")
    (actor,) = cluster.processes("HvqrayTrial")
    actor.kill()
    assert sweep.wait() == 0, sweep.log.read_text()
    assert sweep.log.read_text().count("epoch 1/200") == 1
    assert [row["state"] for row in sweep.trials()] == ["COMPLETE"]


def test_submitted_as_a_job_it_is_the_same_sweep(
    tmp_path: Path, small_images: Path, shared_cache: Path, cluster: RayHead
) -> None:
    command = [sys.executable, "-m", "hvqray.submit", str(write_space(tmp_path)), "--address", cluster.url]
    command += [
        "--data",
        str(small_images),
        "--out",
        str(tmp_path / "runs"),
        "--wandb",
        "disabled",
        "--num-trials",
        "2",
    ]
    environment = environment_without_ray() | {"RAY_AUTH_MODE": "disabled"}
    command += ["--env", f"HVQRAY_CACHE_DIR={shared_cache}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2/2 trials ended" in done.stdout
    rows = pq.read_table(tmp_path / "runs" / "small" / "trials.parquet").to_pylist()
    assert [row["state"] for row in rows] == ["COMPLETE", "COMPLETE"]
    again = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert again.returncode == 2, again.stdout + again.stderr
    assert "already holds a sweep" in again.stdout + again.stderr


def assert_nothing_left(cluster: RayHead) -> None:
    """No actor of ours lives on, and every CPU is free again."""
    deadline = time.monotonic() + 20
    while cluster.processes("HvqrayTrial") or cluster.processes("RayTrainWorker"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
