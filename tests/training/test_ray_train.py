"""What passes between a worker group and its trial, without starting one; whole groups run in the tests of sweeps."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import ray
import torch
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import WorkerGroupError

from hvqray.config.sections import RunConfig
from hvqray.training.failures import WorkersDied
from hvqray.training.ray_train import Job, _Switchboard, _training_error
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
        None,
    ],
    ids=["actor", "actor and its peer", "peer alone", "connection", "worker", "no reason"],
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
