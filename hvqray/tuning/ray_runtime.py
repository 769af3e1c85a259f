"""Starting, joining and leaving Ray, quietly."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import re
import socket
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hvqray.errors import InputError
from hvqray.steady_stderr import say_on_stderr
from hvqray.tuning.stop_signals import have_ray_heed_stops_so, heed_stops

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # no tables of Tune's own beside ours
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's coming default; unset, it prints a notice
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would upload the folder and wrap every worker
    "RAY_TRAIN_ENABLE_V2": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard copies of what our store keeps
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: results are on disk at any moment, so leaving is quick
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # an undefined metric fails its trial, not the sweep
    "TUNE_FORCE_TRIAL_CLEANUP_S": "30",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's snapshots are not what a sweep resumes from
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


_DIED = "A worker died or was killed while executing a task"
"""How Ray's message of a lost process begins: some eight hundred characters that name none of our trials. What it means for a trial
`tuning.relay` tells; a task Ray tries again, or the sweep ends by its error."""
_MANY_PROCESSES = re.compile(r"WARNING: \d+ PYTHON worker processes have been started")
"""How Ray's advice against more processes than cores begins. Those that mind a worker group only wait."""
_LONGEST_LINE = 300
"""What Ray says of a lost node ends in thousands of characters of its log."""

OBJECT_STORE_BYTES = 256 * 2**20
"""Of a local Ray. Trials read mapped files, and what they report is small."""
_CONNECT_S = 10.0
"""How long the port of a cluster may take to answer."""


def quieten_ray() -> None:
    """Set what keeps Ray from printing things no user can act on; must run before Ray is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def ray_session(
    address: str | None, *, dashboard: bool, importing: Sequence[str] = ()
) -> Iterator[list[dict[str, float]]]:
    """A Ray cluster for the time of the block: the one at `address` (or $RAY_ADDRESS), else a local one of its own.

    Yields the resources of every node. Starting Ray is waiting for other processes; meanwhile the modules named in
    `importing`, none of which may import Ray, are imported here. A local cluster has its `dashboard` only where it is
    asked for: it serves the state API, without which stopping a worker group hangs, and is a fifth of what starting Ray
    takes. At the end the job leaves, which ends all of its actors and frees what they reserved; a local cluster is shut
    down with it.

    Raises:
        InputError: No cluster answers at `address`, or the one there cannot be joined; or a local one does not start in
            the time that Ray gives it (30 s), as on an overloaded machine.
    """
    heard: list[int] = []
    heed_stops(heard)
    quieten_ray()
    import ray

    _tell_errors_in_our_way()
    have_ray_heed_stops_so(heard)
    meanwhile = threading.Thread(target=_import, args=(importing,), daemon=True, name="imports")
    meanwhile.start()
    joined = address or os.environ.get("RAY_ADDRESS")
    source = "--address" if address else "RAY_ADDRESS"
    if joined and re.match("https?://", joined):
        raise InputError(
            f"{joined} is a dashboard's URL; give HOST:6379 or auto here, or the URL to hvqray.submit",
            field=source,
        )
    try:
        if joined:
            _connect(joined)
            ray.init(address=joined, logging_level=logging.ERROR, log_to_driver=False)
        else:
            ray.init(
                address="local",
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                logging_level=logging.ERROR,
                log_to_driver=False,
                # Little goes through it, and the third of the memory that it would take is the trials' then.
                object_store_memory=OBJECT_STORE_BYTES,
                # Else it waits for an idle worker a core: those that trials take start when there are trials.
                _system_config={"prestart_worker_first_driver": False},
            )
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        if not joined:
            # Ray's own type for what did not come up in time; all else keeps its traceback.
            if type(error) is not Exception or "timed out" not in reason:
                raise
            raise InputError(
                f"Ray did not start on this machine ({reason}); try again when the machine is less busy, or join a cluster that runs (--address)"
            ) from error
        if not isinstance(error, (OSError, ValueError, RuntimeError, ray.exceptions.RayError)):
            raise
        if isinstance(error, (OSError, ValueError)):
            mend = "start one with 'ray start --head', or leave the address out"
            told = f"no Ray cluster answers there ({reason}); {mend}"
        else:  # other versions of Ray or Python there, or a token is wanted
            told = f"the Ray cluster there cannot be joined ({reason})"
        raise InputError(told, field=f"{source} {joined}") from error
    except SystemExit as stopped:  # so ends what Ray has for SIGTERM while it starts
        raise KeyboardInterrupt from stopped
    finally:
        meanwhile.join()
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Its tracebacks of trials that died are told in one line each, by `tuning.relay`, and which did not end by the summary.
    for name in ("ray.tune.execution.tune_controller", "ray.tune.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    heed_stops(heard)  # again, for Ray has set a handler of its own
    _start_tune_sooner(one_environment=not joined)
    _bear_lost_processes()
    try:
        if heard:  # and its exception was lost, as Python loses what is raised as it forks
            raise KeyboardInterrupt
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    """Raise OSError unless something listens at HOST:PORT. Ray itself tries again for minutes, with lines of its own all the while."""
    if found := re.fullmatch(r"\[?([^/\[\]]+?)\]?:(\d+)", address):
        socket.create_connection((found[1], int(found[2])), timeout=_CONNECT_S).close()


def _tell_errors_in_our_way() -> None:
    """Ray prints what goes wrong in its cluster to standard output, amidst our table, whether or not logs are wanted there.

    There is no setting for it, so the function that prints is replaced, where this version of Ray has it.
    """
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = _tell_error


def _start_tune_sooner(*, one_environment: bool) -> None:
    """Spare Tune what it has no use for here. There is no setting for either, so this is done where this version of Ray allows it.

    Tune imports W&B (0.7 s) to count callbacks for usage statistics, even where these are off. And it gives its actors
    environment variables, for which Ray starts their process by way of another one (0.4 s), although with
    `one_environment`, that of a local cluster, every process has the driver's from the start.
    """
    from ray.air._internal import usage
    from ray.tune.execution import class_cache

    if hasattr(usage, "tag_callbacks") and not hasattr(usage.tag_callbacks, "__wrapped__"):
        usage.tag_callbacks = _only_for_usage_statistics(usage.tag_callbacks)
    if one_environment and hasattr(class_cache, "DEFAULT_ENV_VARS"):
        class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE = {}, set()


def _bear_lost_processes() -> None:
    """Have Tune start a trial again whose process Ray ended because its node ran out of memory, or whose process or node is gone in some other way.

    Ray has errors of their own for these, which are none that Tune knows of lost processes; they would end the whole sweep. There
    is no setting for it, so this is done where this version of Ray allows it.
    """
    from ray import exceptions
    from ray.air.execution._internal import actor_manager
    from ray.tune.execution import tune_controller

    lost = (
        exceptions.RayActorError,
        exceptions.OutOfMemoryError,
        exceptions.NodeDiedError,
        exceptions.WorkerCrashedError,
        exceptions.ObjectLostError,
    )
    for module in (actor_manager, tune_controller):
        if getattr(module, "RayActorError", None) is exceptions.RayActorError:
            module.RayActorError = lost


def _only_for_usage_statistics(count: Callable[[Any], bool]) -> Callable[[Any], bool]:
    @functools.wraps(count)
    def counted(callbacks: Any) -> bool:
        return os.environ.get("RAY_USAGE_STATS_ENABLED") != "0" and count(callbacks)

    return counted


def _tell_error(message: Mapping[str, Any], ignore_prefix: bool = False) -> None:
    for line in message["lines"]:
        if not (line.startswith(_DIED) or _MANY_PROCESSES.match(line)):
            told = textwrap.shorten(line, _LONGEST_LINE, placeholder=" ...")
            say_on_stderr(f"hvqray: Ray says: {told}")


def _import(modules: Sequence[str]) -> None:
    with contextlib.suppress(Exception):  # whoever imports it in earnest is told
        for module in modules:
            importlib.import_module(module)
