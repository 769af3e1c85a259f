"""What passes between a worker group and its trial, without starting one; whole groups run in the tests of sweeps."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray.train.v2._internal.callbacks.backend_setup import BackendSetupCallback
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from hvqray.config.sections import RunConfig
from hvqray.training import ray_train
from hvqray.training.failures import WorkersDied
from hvqray.training.ray_train import Job, _connect, _Switchboard, _training_error, _WorkersConfig
from hvqray.training.selection import Selection

JOB = Job(RunConfig(), Path("folder"), Selection(), "t0000", None)


def test_ranks_wait_for_jobs_and_get_them_in_order() -> None:
    async def talk() -> None:
        board = _Switchboard()
        ranks = [asyncio.create_task(board.job(index)) for index in (0, 0, 1)]
        await asyncio.sleep(0)
        assert not any(rank.done() for rank in ranks)
        assert [await board.submit(job) for job in (JOB, None)] == [0, 1]
        assert await asyncio.gather(*ranks) == [JOB, JOB, None]
        assert await board.job(0) == JOB

    asyncio.run(asyncio.wait_for(talk(), 10))


def test_reports_come_out_once_in_order() -> None:
    async def talk() -> None:
        board = _Switchboard()
        waiting = asyncio.create_task(board.next_report())
        await asyncio.sleep(0)
        assert not waiting.done()
        for epoch in (1, 2):
            await board.report({"epoch": epoch})
        assert [await waiting, await board.next_report()] == [{"epoch": 1}, {"epoch": 2}]

    asyncio.run(asyncio.wait_for(talk(), 10))


def test_every_rank_hears_the_decision_of_its_own_job_and_epoch() -> None:
    async def talk() -> None:
        board = _Switchboard()
        await board.decide(0, 1, True)
        ranks = [asyncio.create_task(board.decision(*of)) for of in ((0, 2), (0, 2), (1, 1))]
        assert await board.decision(0, 1)
        await asyncio.sleep(0)
        assert not any(rank.done() for rank in ranks)
        await board.decide(0, 2, False)
        await board.decide(1, 1, True)
        assert await asyncio.gather(*ranks) == [False, False, True]

    asyncio.run(asyncio.wait_for(talk(), 10))


def test_every_other_rank_hears_where_the_first_one_waits() -> None:
    async def talk() -> None:
        board = _Switchboard()
        ranks = [asyncio.create_task(board.meeting_point()) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(rank.done() for rank in ranks)
        await board.meet_at("10.0.0.1", 4321)
        assert await asyncio.gather(*ranks) == [("10.0.0.1", 4321)] * 2

    asyncio.run(asyncio.wait_for(talk(), 10))


class Board:
    """Stands for the actor: what is called is answered at once."""

    def __init__(self) -> None:
        self.meeting_point = SimpleNamespace(remote=lambda: ("10.0.0.1", 4321))
        self.meet_at = SimpleNamespace(remote=lambda host, port: self.told.append((host, port)))
        self.told: list[tuple[str, int]] = []


@pytest.mark.parametrize(
    ("rank", "of_one_node", "user_s", "interface"),
    [(0, 1, None, "eth7"), (1, 1, None, "eth7"), (0, 1, "ib0", "ib0"), (0, 2, None, None)],
    ids=["first", "second", "named by the user", "one node"],
)
def test_ranks_on_several_nodes_connect_by_the_addresses_that_ray_knows_the_nodes_by(
    monkeypatch: pytest.MonkeyPatch, rank: int, of_one_node: int, user_s: str | None, interface: str | None
) -> None:
    stores: list[tuple[Any, ...]] = []
    joined: dict[str, Any] = {}

    def make_store(*arguments: Any, **_: Any) -> SimpleNamespace:
        stores.append(arguments)
        return SimpleNamespace(port=4321)

    context = SimpleNamespace(
        get_world_rank=lambda: rank, get_world_size=lambda: 2, get_local_world_size=lambda: of_one_node
    )
    environment = {"GLOO_SOCKET_IFNAME": user_s} if user_s else {}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: f"10.0.0.{rank + 1}")
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    monkeypatch.setattr(torch.distributed, "TCPStore", make_store)
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda backend, **options: joined.update(options)
    )
    monkeypatch.setattr(ray_train, "interface_with", {"10.0.0.1": "eth7", "10.0.0.2": "eth7"}.get)
    board = Board()
    _connect(board, "gloo")
    assert (joined["rank"], joined["world_size"]) == (rank, 2)
    assert environment.get("GLOO_SOCKET_IFNAME") == interface
    assert [store[:2] for store in stores] == [("10.0.0.1", 4321 if rank else 0)]
    assert board.told == ([] if rank else [("10.0.0.1", 4321)])


def test_ray_train_itself_connects_no_workers() -> None:
    """Where its set-up fails it keeps what the workers have reserved; a group that is None shows that nothing is asked of it."""
    config = _WorkersConfig()
    BackendSetupCallback(config).after_execution_group_start(None)
    assert config.backend_cls.share_cuda_visible_devices


def group_error(*failures: Exception) -> WorkerGroupError:
    return WorkerGroupError("workers failed", dict(enumerate(failures)))


DIVERGED = FloatingPointError("training diverged in epoch 2")
RAISED = UserExceptionWithTraceback(DIVERGED, "Traceback ...")
TASK_ERROR = ray.exceptions.RayTaskError("_work", "Traceback ...", DIVERGED)
GLOO = UserExceptionWithTraceback(
    RuntimeError(
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"
    ),
    "",
)
LOST = WorkerHealthCheckFailedError("rank 1 is gone", ray.exceptions.ActorDiedError())


@pytest.mark.parametrize(
    "failure",
    [DIVERGED, RAISED, TASK_ERROR, TASK_ERROR.as_instanceof_cause()],
    ids=lambda f: type(f).__name__,
)
def test_what_training_raised_comes_out_of_its_wrapping(failure: Exception) -> None:
    assert _training_error(group_error(failure)) is DIVERGED


@pytest.mark.parametrize(
    "error",
    [
        group_error(LOST),
        group_error(GLOO, LOST),
        group_error(GLOO),
        group_error(UserExceptionWithTraceback(torch.distributed.DistBackendError("NCCL"), "")),
        group_error(ray.exceptions.WorkerCrashedError()),
        ControllerError(WorkerGroupStartupFailedError("At least one of the worker actors failed")),
        ControllerError(WorkerGroupStartupTimeoutError(2)),
        ControllerError(ray.exceptions.ActorDiedError()),
        None,
    ],
    ids=[
        "actor",
        "actor and its peer",
        "peer alone",
        "connection",
        "worker",
        "worker that never began",
        "reservation",
        "worker as it began",
        "no reason",
    ],
)
def test_a_lost_process_is_told_as_such(error: WorkerGroupError | None) -> None:
    found = _training_error(error)
    assert isinstance(found, WorkersDied)
    assert str(found)
    assert "\n" not in str(found)


@pytest.mark.parametrize("failures", [(RAISED, GLOO), (GLOO, RAISED)], ids=["first", "second"])
def test_what_one_worker_raised_counts_though_its_peer_lost_the_connection(
    failures: tuple[Exception, ...],
) -> None:
    assert _training_error(group_error(*failures)) is DIVERGED


def test_any_other_error_is_left_as_it_is() -> None:
    error = ValueError("no")
    assert _training_error(error) is error
