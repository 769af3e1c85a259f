"""Joining and leaving Ray; whole clusters are started in the tests of sweeps."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import tune
from ray._private import utils, worker
from ray.air._internal import usage
from ray.air.execution._internal import actor_manager
from ray.tune.execution import class_cache, tune_controller
from ray_head import unused_port

from hvqray.errors import InputError
from hvqray.tuning.ray_runtime import quieten_ray, ray_session


class Ray:
    """Stands for Ray's start, end and list of nodes."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.options: dict[str, Any] = {}
        self.is_up = False

    def init(self, **options: Any) -> None:
        self.options = options
        if self._error:
            raise self._error
        self.is_up = True

    def shutdown(self) -> None:
        self.is_up = False

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": True, "Resources": {"CPU": 4.0}},
            {"Alive": False, "Resources": {"CPU": 64.0}},
            {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}},
        ]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    # As they are, so that they are again what they were after the test; all must be in this version of Ray.
    for module, name in (
        (actor_manager, "RayActorError"),
        (tune_controller, "RayActorError"),
        (usage, "tag_callbacks"),
        (class_cache, "DEFAULT_ENV_VARS"),
        (class_cache, "ENV_VARS_TO_PROPAGATE"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    os.environ.pop("RAY_ADDRESS", None)


def replace_ray(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> Ray:
    stand_in = Ray(error)
    for name in ("init", "shutdown", "nodes"):
        monkeypatch.setattr(ray, name, getattr(stand_in, name))
    return stand_in


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every port answers."""
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: socket.socket())


@pytest.mark.parametrize("dashboard", [True, False])
def test_a_cluster_of_its_own_is_on_loopback_and_ends_with_the_block(
    monkeypatch: pytest.MonkeyPatch, dashboard: bool
) -> None:
    cluster = replace_ray(monkeypatch)
    with ray_session(None, dashboard=dashboard) as nodes:
        assert cluster.is_up
        assert nodes == [{"CPU": 4.0}, {"CPU": 8.0, "GPU": 2.0}], "living nodes only"
    assert not cluster.is_up
    assert cluster.options["address"] == "local"
    assert cluster.options["dashboard_host"] == "127.0.0.1"
    assert cluster.options["include_dashboard"] == dashboard
    assert cluster.options["_system_config"] == {"prestart_worker_first_driver": False}


def test_it_is_left_after_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = replace_ray(monkeypatch)
    with pytest.raises(KeyboardInterrupt), ray_session(None, dashboard=False):
        raise KeyboardInterrupt
    assert not cluster.is_up


@pytest.mark.parametrize("handler_of_ray", [None, 15, 1])
def test_sigterm_while_ray_starts_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, handler_of_ray: int | None
) -> None:
    def init(**_: Any) -> None:
        if handler_of_ray is not None:  # which it sets as it starts: one of the driver, then one of the node
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(handler_of_ray))
        signal.raise_signal(signal.SIGTERM)

    replace_ray(monkeypatch)
    monkeypatch.setattr(ray, "init", init)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # else the test itself would end where it fails
    try:
        with pytest.raises(KeyboardInterrupt), ray_session(None, dashboard=False):
            pass
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("handler_of_ray", [None, 15])
def test_a_signal_amidst_an_import_leaves_python_s_import_its_locks(
    monkeypatch: pytest.MonkeyPatch, number: int, handler_of_ray: int | None
) -> None:
    """An exception between the taking of the import lock and what frees it would have every later import of a thread wait for ever."""
    done: list[str] = []
    names: dict[str, Any] = {"raise_signal": signal.raise_signal, "done": done}
    source = "def look_after_locks(number):\n    raise_signal(number)\n    done.append('freed')\n"
    exec(compile(source, "<frozen importlib._bootstrap>", "exec"), names)

    def init(**_: Any) -> None:
        if handler_of_ray is not None:
            utils.set_sigterm_handler(lambda *_: sys.exit(handler_of_ray))
        names["look_after_locks"](number)
        time.sleep(10)
        done.append("not interrupted")

    replace_ray(monkeypatch)
    monkeypatch.setattr(ray, "init", init)
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt), ray_session(None, dashboard=False):
            pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for each, handler in before.items():
            signal.signal(each, handler)
    assert done == ["freed"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_exception_is_lost_while_ray_starts_is_heard(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    class Fork:
        def __del__(self) -> None:  # Python ignores what is raised here, as in what is called at a fork
            signal.raise_signal(number)

    cluster = replace_ray(monkeypatch)

    def init(**options: Any) -> None:
        cluster.init(**options)
        Fork()

    monkeypatch.setattr(ray, "init", init)
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    begun = []
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt), ray_session(None, dashboard=False):
            begun.append("the sweep")
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert not begun
    assert not cluster.is_up


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize(
    ("address", "variable", "joined"),
    [("10.0.0.1:6379", None, "10.0.0.1:6379"), (None, "auto", "auto"), ("a:1", "b:2", "a:1")],
)
def test_a_running_cluster_is_joined(
    monkeypatch: pytest.MonkeyPatch, address: str | None, variable: str | None, joined: str
) -> None:
    cluster = replace_ray(monkeypatch)
    if variable:
        monkeypatch.setitem(os.environ, "RAY_ADDRESS", variable)
    with ray_session(address, dashboard=False):
        assert cluster.options["address"] == joined
        assert "_system_config" not in cluster.options, "a running cluster refuses it"


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize(("address", "set_in_actors"), [(None, False), ("10.0.0.1:6379", True)])
def test_actors_of_a_local_cluster_have_the_driver_s_environment_from_the_start(
    monkeypatch: pytest.MonkeyPatch, address: str | None, set_in_actors: bool
) -> None:
    class Trainable:
        pass

    replace_ray(monkeypatch)
    with ray_session(address, dashboard=False):
        actor = class_cache._ActorClassCache().get(Trainable)
    environment = actor._default_options["runtime_env"] or {}
    assert bool(environment.get("env_vars")) == set_in_actors


@pytest.mark.parametrize(("usage_stats", "counted"), [("0", False), ("1", True)])
def test_callbacks_are_counted_only_for_usage_statistics(
    monkeypatch: pytest.MonkeyPatch, usage_stats: str, counted: bool
) -> None:
    """To count them Tune imports W&B."""
    counts: list[Any] = []
    monkeypatch.setattr(usage, "_count_callbacks", counts.append)
    monkeypatch.setitem(os.environ, "RAY_USAGE_STATS_ENABLED", usage_stats)
    replace_ray(monkeypatch)
    with ray_session(None, dashboard=False):
        tune.tune.air_usage.tag_callbacks([tune.Callback()])
    assert bool(counts) == counted


@pytest.mark.parametrize(
    "error",
    [
        ray.exceptions.OutOfMemoryError("1 worker(s) were killed"),
        ray.exceptions.NodeDiedError("it does not answer"),
        ray.exceptions.WorkerCrashedError(),
        ray.exceptions.ActorDiedError(),
    ],
)
def test_a_process_that_ray_ends_for_want_of_memory_counts_as_lost(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Otherwise Tune raises what it does not expect, which ends the whole sweep."""
    replace_ray(monkeypatch)
    with ray_session(None, dashboard=False):
        pass
    manager = object.__new__(actor_manager.RayActorManager)
    manager._failed_actor_ids = set()
    monkeypatch.setattr(manager, "_cleanup_actor", lambda **_: None)
    lost: list[Any] = []
    actor = SimpleNamespace(actor_id="a", _on_error=lambda actor, error: lost.append(error))
    task = SimpleNamespace(_tracked_actor=actor, _on_error=lambda actor, error: lost.append("task"))
    manager._actor_task_failed(task, error)
    assert lost == [error, "task"]
    assert isinstance(error, tune_controller.RayActorError)
    with pytest.raises(RuntimeError, match="unexpected"):
        manager._actor_task_failed(task, ray.exceptions.LocalRayletDiedError("unexpected"))


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("error", [ConnectionError("no\nanswer"), ValueError("bad address " * 50)])
def test_no_cluster_there_is_the_user_s_to_mend(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    replace_ray(monkeypatch, error)
    with pytest.raises(InputError) as refused, ray_session("10.0.0.1:6379", dashboard=False):
        pass
    message = str(refused.value)
    assert message.startswith("--address 10.0.0.1:6379: no Ray cluster answers there (")
    assert "start one with 'ray start --head'" in message
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Version mismatch: Ray 2.9.0,\nPython 3.12.1"),
        ray.exceptions.AuthenticationError("no token"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_the_user_s_to_mend(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    replace_ray(monkeypatch, error)
    with pytest.raises(InputError) as refused, ray_session("10.0.0.1:6379", dashboard=False):
        pass
    message = str(refused.value)
    assert message.startswith("--address 10.0.0.1:6379: the Ray cluster there cannot be joined (")
    assert str(error)[:8] in message
    assert "\n" not in message
    with pytest.raises(type(error)), ray_session(None, dashboard=False):
        pass


@pytest.mark.usefixtures("listening")
def test_what_nobody_foresaw_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("10.0.0.1:6379", None):
        replace_ray(monkeypatch, Exception("Cannot include dashboard with missing packages"))
        with pytest.raises(Exception, match="Cannot include"), ray_session(address, dashboard=False):
            pass


def test_a_local_ray_that_is_not_up_in_time_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_ray(monkeypatch, Exception("The current node timed out\nduring startup."))
    with pytest.raises(InputError) as refused, ray_session(None, dashboard=False):
        pass
    assert str(refused.value).startswith(
        "Ray did not start on this machine (The current node timed out during startup.); try again when"
    )


def test_where_nothing_listens_it_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = replace_ray(monkeypatch)
    port = unused_port()
    with (
        pytest.raises(
            InputError, match=rf"--address 127.0.0.1:{port}: no Ray cluster answers there \(.*refused"
        ),
        ray_session(f"127.0.0.1:{port}", dashboard=False),
    ):
        pass
    assert not cluster.options, "Ray would try for minutes"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_what_listens_is_left_to_ray(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    cluster = replace_ray(monkeypatch)
    family = socket.AF_INET6 if "::" in host else socket.AF_INET
    with socket.create_server((host.strip("[]"), 0), family=family) as server:
        address = f"{host}:{server.getsockname()[1]}"
        with ray_session(address, dashboard=False):
            assert cluster.options["address"] == address


@pytest.mark.parametrize("variable", [False, True])
def test_a_dashboard_s_url_is_for_submit(monkeypatch: pytest.MonkeyPatch, variable: bool) -> None:
    cluster = replace_ray(monkeypatch)
    url = "http://10.0.0.1:8265"
    if variable:
        monkeypatch.setitem(os.environ, "RAY_ADDRESS", url)
    with pytest.raises(InputError) as refused, ray_session(None if variable else url, dashboard=False):
        pass
    source = "RAY_ADDRESS" if variable else "--address"
    assert str(refused.value).startswith(f"{source}: {url} is a dashboard's URL; give HOST:6379 or auto here")
    assert "hvqray.submit" in str(refused.value)
    assert not cluster.options


def test_of_an_address_it_is_told_where_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_ray(monkeypatch, ValueError("bad address"))
    monkeypatch.setitem(os.environ, "RAY_ADDRESS", "nonsense")
    with (
        pytest.raises(InputError, match=r"^RAY_ADDRESS nonsense: no Ray"),
        ray_session(None, dashboard=False),
    ):
        pass


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "RAY_DEDUP_LOGS", "0")
    os.environ.pop("TUNE_DISABLE_SIGINT_HANDLER", None)
    quieten_ray()
    assert os.environ["RAY_DEDUP_LOGS"] == "0"
    assert os.environ["TUNE_DISABLE_SIGINT_HANDLER"] == "1"


def test_modules_are_imported_while_ray_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "slow_to_import.py").write_text("")
    (tmp_path / "cannot_be_imported.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    cluster = replace_ray(monkeypatch)
    with ray_session(None, dashboard=False, importing=("slow_to_import", "cannot_be_imported")):
        assert cluster.is_up
        assert "slow_to_import" in sys.modules


def test_what_ray_says_goes_to_standard_error_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_ray(monkeypatch)
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    with ray_session(None, dashboard=False):
        died = "A worker died or was killed while executing a task by an unexpected system error. To troubleshoot"
        many = "WARNING: 5 PYTHON worker processes have been started on node: 7a13, which is 5x the maximum"
        for line in (died, many, "2 Workers killed due to memory pressure (OOM)\nsee the logs"):
            worker.print_to_stdstream(
                {"lines": [line], "pid": "raylet", "is_err": False}, ignore_prefix=False
            )
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "hvqray: Ray says: 2 Workers killed due to memory pressure (OOM) see the logs\n"


def test_of_a_lost_node_ray_s_log_is_not_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_ray(monkeypatch)
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    lost = "Raylet is terminated. Termination is unexpected. Last 20 lines of the Raylet logs:\n"
    with ray_session(None, dashboard=False):
        worker.print_to_stdstream({"lines": [lost + "[state-dump] 0 active\n" * 200]}, ignore_prefix=False)
    told = capsys.readouterr().err
    assert told.startswith("hvqray: Ray says: Raylet is terminated. Termination is unexpected. Last 20 lines")
    assert told.endswith(" ...\n")
    assert len(told) < 350
