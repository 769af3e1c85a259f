"""The one place that touches Ray Train: a DDP worker group that outlives trials.

Starting a worker group costs tens of seconds, a trial sometimes less. So one `TorchTrainer.fit()` lives as long as its
trial actor: its workers wait for jobs, run each with the Ray-free training loop, and report through a small actor,
the `Switchboard`, on which rank 0 also learns whether to go on. Stopping is cooperative: a worker never dies inside a
collective operation, and the group returns when it is told that there are no more jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import TorchConfig, TorchTrainer

from hvqray.config.sections import RunConfig
from hvqray.data.prepare import LastPrepared
from hvqray.quick_imports import leave_out_of_collections
from hvqray.training import loop
from hvqray.training.communicator import ProcessGroup
from hvqray.training.epoch_report import EpochReport
from hvqray.training.failures import WorkersDied
from hvqray.training.run_memory import bound_slot
from hvqray.training.selection import Selection

POLL_S = 1.0
_GLOO_LOST_PEER = r"gloo/transport|Connection (closed|reset) by peer"


@dataclass(frozen=True)
class Job:
    """One run for a worker group."""

    config: RunConfig
    folder: Path
    selection: Selection
    trial_id: str
    cache_dir: Path | None


class _Switchboard:
    """Passes jobs and decisions to the workers and reports back. Runs as an async Ray actor without resources."""

    def __init__(self) -> None:
        self._jobs: list[Job | None] = []
        self._go_on: dict[tuple[int, int], bool] = {}
        self._reports: list[dict[str, Any]] = []
        self._changed = asyncio.Condition()

    async def submit(self, job: Job | None) -> int:
        """Queue a job (None: no more will come); returns its index."""
        async with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()
            return len(self._jobs) - 1

    async def job(self, index: int) -> Job | None:
        """Wait for a job; called by every rank."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._jobs) > index)
            return self._jobs[index]

    async def report(self, message: dict[str, Any]) -> None:
        """Rank 0 delivers an epoch report, or the end of a job."""
        async with self._changed:
            self._reports.append(message)
            self._changed.notify_all()

    async def next_report(self) -> dict[str, Any]:
        """Wait for rank 0's next message."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._reports))
            return self._reports.pop(0)

    async def decide(self, job: int, epoch: int, go_on: bool) -> None:
        """Whether `job` goes on after `epoch`."""
        async with self._changed:
            self._go_on[job, epoch] = go_on
            self._changed.notify_all()

    async def decision(self, job: int, epoch: int) -> bool:
        """Wait for the decision; called by every rank, so that all stop at the same epoch."""
        async with self._changed:
            await self._changed.wait_for(lambda: (job, epoch) in self._go_on)
            return self._go_on[job, epoch]


def _work(settings: dict[str, Any]) -> None:
    """What each worker of the group does: jobs, one after the other, until there are no more."""
    leave_out_of_collections()  # each run begins with a collection
    switchboard = settings["switchboard"]
    torch.set_num_threads(settings["threads"])
    communicator = ProcessGroup(ray.train.torch.get_device())
    bound_slot(communicator.device, settings["gpus"])
    index, last = 0, LastPrepared()
    while (job := ray.get(switchboard.job.remote(index))) is not None:
        data = last.prepare(job.config.data, cache_dir=job.cache_dir, device=str(communicator.device))
        epochs = loop.run(
            job.config,
            data,
            folder=job.folder,
            communicator=communicator,
            selection=job.selection,
            trial_id=job.trial_id,
            start_over=True,
        )
        with contextlib.closing(epochs):
            for report in epochs:
                if communicator.rank == 0:
                    ray.get(switchboard.report.remote({"job": index, "report": asdict(report)}))
                if not ray.get(switchboard.decision.remote(index, report.epoch)):
                    break
        index += 1


class WorkerGroup:
    """Several processes that train one trial after another together."""

    def __init__(self, *, workers: int, cpus: float, gpus: float, memory: int, storage: Path) -> None:
        self._switchboard = ray.remote(num_cpus=0)(_Switchboard).options(max_concurrency=1000).remote()
        resources: dict[str, float] = {"CPU": cpus}
        if gpus:
            resources["GPU"] = gpus
        if memory:
            resources["memory"] = memory
        self._trainer = TorchTrainer(
            _work,
            train_loop_config={
                "switchboard": self._switchboard,
                "threads": max(1, int(cpus)),
                "gpus": gpus,
            },
            # NCCL takes one rank a GPU, so workers that share one talk over gloo.
            torch_config=TorchConfig(backend="nccl" if gpus >= 1 else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers, use_gpu=gpus > 0, resources_per_worker=resources
            ),
            run_config=ray.train.RunConfig(
                name=f"workers-{os.getpid()}",
                storage_path=str(storage),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, daemon=True, name="train-workers")
        self._thread.start()

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:  # told to whoever waits for a report
            self._error = error

    @property
    def is_alive(self) -> bool:
        """Whether the group can take another job."""
        return self._thread.is_alive()

    def run(self, job: Job) -> Generator[EpochReport, None, None]:
        """Run a job; closing the iterator stops it after the epoch that was last reported.

        Raises:
            WorkersDied: A worker's process was lost.
            Exception: Whatever a worker's training raised.
        """
        index = ray.get(self._switchboard.submit.remote(job))
        epoch = None
        try:
            while True:
                report = EpochReport(**self._next_report())
                epoch = report.epoch
                yield report
                if report.is_last:
                    return
                ray.get(self._switchboard.decide.remote(index, epoch, True))
                epoch = None
        except ray.exceptions.RayActorError as error:
            raise WorkersDied(
                f"the switchboard of the workers was lost: {error}".partition("\n")[0]
            ) from error
        finally:
            if epoch is not None and self.is_alive:
                ray.get(self._switchboard.decide.remote(index, epoch, False))

    def _next_report(self) -> dict[str, Any]:
        pending = self._switchboard.next_report.remote()
        while True:
            ready, _ = ray.wait([pending], timeout=POLL_S)
            if ready:
                return ray.get(pending)["report"]
            if not self.is_alive:
                raise _training_error(self._error)

    def close(self, *, timeout_s: float = 20.0) -> None:
        """Let the workers return, so that their processes end and what they reserved is free."""
        if self.is_alive:
            ray.get(self._switchboard.submit.remote(None))
            self._thread.join(timeout_s)
        ray.kill(self._switchboard)


def _training_error(error: BaseException | None) -> BaseException:
    """What ended a worker group, taken out of Ray Train's wrapping.

    Where one process is lost the others raise errors of their broken connections, and so they do where one raises an
    error of its own: so a lost process counts first, then what a worker raised of itself, and a connection last.
    """
    failures = [_unwrapped(failure) for failure in getattr(error, "worker_failures", {}).values()]
    lost = [failure for failure in failures if isinstance(failure, ray.exceptions.RayError)]
    own = [failure for failure in failures if not _is_of_a_connection(failure)]
    if failures and (lost or not own):
        return WorkersDied(str((lost or failures)[0]).strip().partition("\n")[0][:300])
    return own[0] if own else error or WorkersDied("the worker group ended before its job")


def _is_of_a_connection(failure: BaseException) -> bool:
    """Whether a worker says no more than that a peer is gone: NCCL by a class of its own, gloo in words only."""
    return isinstance(failure, dist.DistError) or (
        isinstance(failure, RuntimeError) and re.search(_GLOO_LOST_PEER, str(failure)) is not None
    )


def _unwrapped(failure: BaseException) -> BaseException:
    """The exception of the training code, or of the process that is gone; Ray names it differently each time."""
    for name in ("_base_exc", "health_check_failure", "cause"):
        inner = getattr(failure, name, None)
        if isinstance(inner, BaseException):
            return _unwrapped(inner)
    return failure
