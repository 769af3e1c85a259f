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
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer

from hvqray.config.sections import RunConfig
from hvqray.data.prepare import LastPrepared
from hvqray.quick_imports import leave_out_of_collections
from hvqray.training import loop
from hvqray.training.communicator import ProcessGroup
from hvqray.training.epoch_report import EpochReport
from hvqray.training.failures import WorkersDied
from hvqray.training.node_interface import interface_with
from hvqray.training.run_memory import bound_slot
from hvqray.training.selection import Selection

POLL_S = 1.0
COLLECTIVE_S = 1800.0
"""How long a collective operation may take, a rank that prepares its data alone included."""
FOR_EVER_S = 10 * 365 * 86400.0
_NEVER_BEGAN = ("WorkerGroupStartupFailedError", "WorkerGroupStartupTimeoutError")
"""What Ray Train calls it, in a module of its own, where a worker is lost before it has begun, or what is reserved for it."""
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
        self._meeting_point: tuple[str, int] | None = None
        self._changed = asyncio.Condition()

    async def meet_at(self, host: str, port: int) -> None:
        """Rank 0 says where the ranks connect."""
        async with self._changed:
            self._meeting_point = host, port
            self._changed.notify_all()

    async def meeting_point(self) -> tuple[str, int]:
        """Wait for it; called by every other rank."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._meeting_point is not None)
            assert self._meeting_point is not None
            return self._meeting_point

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
    _connect(switchboard, settings["backend"])
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
    dist.destroy_process_group()


def _connect(switchboard: Any, backend: str) -> None:
    """Join the ranks to one process group.

    Ray Train would do so before it calls `_work`, and where that fails keep what the group has reserved until the job is over, so
    that no other group gets it. What fails in `_work` ends the group.
    """
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    address, timeout = ray.util.get_node_ip_address(), timedelta(seconds=COLLECTIVE_S)
    if context.get_local_world_size() < world_size and (interface := interface_with(address)):
        # Of itself gloo takes what the host's name stands for: on many systems 127.0.1.1, which other machines cannot reach.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    new_store: Any = dist.TCPStore  # type: ignore[attr-defined]  # which is public, though not by its stubs
    if rank == 0:
        store = new_store(address, 0, world_size, True, timeout, wait_for_workers=False)
        ray.get(switchboard.meet_at.remote(address, store.port))
    else:
        host, port = ray.get(switchboard.meeting_point.remote())
        store = new_store(host, port, world_size, False, timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


class _ConnectedByUs(Backend):
    """In the place of Ray Train's own backend for PyTorch, which connects the workers."""

    share_cuda_visible_devices = True  # as there: the ranks of a node see each other's GPUs


@dataclass
class _WorkersConfig(TorchConfig):
    @property
    def backend_cls(self) -> type[Backend]:
        return _ConnectedByUs


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
                # NCCL takes one rank a GPU, so workers that share one talk over gloo.
                "backend": "nccl" if gpus >= 1 else "gloo",
            },
            torch_config=_WorkersConfig(),
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers, use_gpu=gpus > 0, resources_per_worker=resources
            ),
            run_config=ray.train.RunConfig(
                name=f"workers-{os.getpid()}",
                storage_path=str(storage),
                # What starts again is the trial. Ray's controller would demand the group's resources once more while the job ends that
                # it belongs to, and what is granted to a job that has ended is never given back.
                failure_config=ray.train.FailureConfig(controller_failure_limit=0),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )
        # To wait for resources is no failure: another job may hold them for hours.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(FOR_EVER_S))
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
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
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
    in_controller = getattr(error, "controller_failure", None)  # as where a worker dies before it has begun
    wrapped = [in_controller] if in_controller else getattr(error, "worker_failures", {}).values()
    failures = [_unwrapped(failure) for failure in wrapped]
    lost = [failure for failure in failures if _is_of_a_lost_process(failure)]
    own = [failure for failure in failures if not _is_of_a_connection(failure)]
    if failures and (lost or not own):
        return WorkersDied(str((lost or failures)[0]).strip().partition("\n")[0][:300])
    return own[0] if own else error or WorkersDied("the worker group ended before its job")


def _is_of_a_lost_process(failure: BaseException) -> bool:
    return isinstance(failure, ray.exceptions.RayError) or type(failure).__name__ in _NEVER_BEGAN


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
