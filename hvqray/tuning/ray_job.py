"""A command as a job on a Ray cluster: connect to the dashboard, submit, follow the log, tell how it ended.

Ray runs the command on a node of the cluster, in an unpacked copy of a folder, with `RAY_ADDRESS` set, so that a plain
`ray.init()` attaches to the cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import requests

from hvqray.errors import InputError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

CONNECT_TIMEOUT_S = 5.0
IDLE_S = 15.0
"""Silence after which the follower asks whether the job still runs: a connection may be dead without saying so."""
RETRY_S = 2.0
MAX_FAILURES = 30
"""Unanswered questions in a row after which the cluster counts as lost."""
STOP_GRACE_S = 60
"""Seconds between the signal that ends a stopped job (SIGTERM) and the one that kills it; Ray's own 3 are few."""
QUIET_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


class LostClusterError(Exception):
    """The cluster stopped answering while a job was followed."""


def connect(address: str) -> JobSubmissionClient:
    """A client of the job server behind the dashboard at `address`, an http(s) URL.

    Raises:
        InputError: nothing answers within seconds, what answers is not Ray, or it wants a token that is not there.
    """
    # Ray's client waits for minutes where a firewall swallows packets, so the first question is asked here.
    try:
        reply = requests.get(f"{address}/api/version", timeout=CONNECT_TIMEOUT_S)
    except requests.RequestException as error:
        reason = (
            f"no answer in {CONNECT_TIMEOUT_S:g} s"
            if isinstance(error, requests.Timeout)
            else "cannot connect"
        )
        raise InputError(
            f"{reason}; is the cluster up, and its dashboard reachable from here?", field=address
        ) from error
    if not (reply.status_code in (401, 403) or (reply.ok and "ray_version" in reply.text)):
        raise InputError(
            f"no Ray dashboard answers here (HTTP status {reply.status_code}); its usual port is 8265",
            field=address,
        )

    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray lets the environment win over the argument
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise InputError(
            "the cluster wants its token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH "
            "unless ~/.ray/auth_token holds the token",
            field=address,
        ) from error
    except (RuntimeError, ConnectionError) as error:
        raise InputError(str(error), field=address) from error


def submit(
    client: JobSubmissionClient,
    entrypoint: Sequence[str],
    *,
    working_dir: Path,
    env_vars: Mapping[str, str],
    submission_id: str | None = None,
) -> str:
    """Start `entrypoint` as a job in a copy of `working_dir`; returns the job's id.

    `env_vars` reach the job and all its workers. They are kept with the job's record, so whoever may ask the
    cluster for it can read them.

    Raises:
        InputError: the submission id is taken.
    """
    attempts = 0
    while True:
        try:
            return str(
                client.submit_job(
                    entrypoint=shlex.join(entrypoint),
                    runtime_env={
                        "working_dir": str(working_dir),
                        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_GRACE_S), **env_vars},
                    },
                    submission_id=submission_id,
                )
            )
        except RuntimeError as error:
            if submission_id and "already exists" in str(error):
                raise InputError(
                    "taken on this cluster; choose another submission id", field=submission_id
                ) from error
            attempts += 1
            # The dashboard of a young cluster answers before the agent that starts jobs does.
            if "No available agent" not in str(error) or attempts >= MAX_FAILURES:
                raise
            time.sleep(RETRY_S)


def follow(client: JobSubmissionClient, job_id: str, write: Callable[[str], object]) -> JobDetails:
    """Hand the job's whole log to `write` as it grows; returns what Ray says of the job once it is over.

    Raises:
        LostClusterError: the cluster has not answered for a minute.
        KeyboardInterrupt: Ctrl-C; the job runs on.
    """
    return asyncio.run(_follow(client, job_id, write))


async def _follow(client: JobSubmissionClient, job_id: str, write: Callable[[str], object]) -> JobDetails:
    shown, was_over = 0, False
    while True:
        shown, reached_end = await _copy_log(client, job_id, shown, write)
        details = await _details(client, job_id)
        is_over = details.status.is_terminal()
        if is_over and (reached_end or was_over):
            return details
        was_over = is_over  # the log's tail may be missing still: one more try, its node may be gone
        await asyncio.sleep(RETRY_S)


async def _copy_log(
    client: JobSubmissionClient, job_id: str, shown: int, write: Callable[[str], object]
) -> tuple[int, bool]:
    """Write what follows the first `shown` characters; returns how many are shown now, and whether the log ended."""
    position = 0
    async with contextlib.aclosing(client.tail_job_logs(job_id)) as pieces:
        while True:
            try:
                piece = await _next_piece(pieces, client, job_id)
            except (RuntimeError, OSError, aiohttp.ClientError):
                return shown, False
            if piece is None:
                return shown, True
            write(piece[max(0, shown - position) :])  # a new connection starts from the log's beginning
            position += len(piece)
            shown = max(shown, position)


async def _next_piece(pieces: AsyncIterator[str], client: JobSubmissionClient, job_id: str) -> str | None:
    """The log's next piece, or None at its end.

    Raises:
        TimeoutError: the job is over, and the connection does not say so.
    """
    pending = asyncio.ensure_future(anext(pieces, None))
    over = False
    try:
        while not (await asyncio.wait({pending}, timeout=IDLE_S))[0]:
            if over:
                raise TimeoutError
            over = (await _details(client, job_id)).status.is_terminal()
        return pending.result()
    finally:
        pending.cancel()
        await asyncio.wait({pending})


async def _details(client: JobSubmissionClient, job_id: str) -> JobDetails:
    for _ in range(MAX_FAILURES):
        try:
            return await asyncio.to_thread(client.get_job_info, job_id)
        except (RuntimeError, OSError) as error:
            reason = str(error)
            await asyncio.sleep(RETRY_S)
    raise LostClusterError(f"the cluster no longer answers ({reason})")


def stop(client: JobSubmissionClient, job_id: str) -> None:
    """End the job with SIGTERM (its whole process tree) and wait until it is over, `STOP_GRACE_S` at most."""
    client.stop_job(job_id)
    while not client.get_job_info(job_id).status.is_terminal():
        time.sleep(0.5)
