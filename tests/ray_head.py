"""A Ray cluster of this machine's own for the tests: own ports, own folder, own process group."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests
from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions


@dataclass(frozen=True)
class RayHead:
    """A running cluster of two CPUs."""

    url: str
    """The dashboard, for jobs."""
    address: str
    """HOST:PORT, for drivers."""
    pid: int

    def free_cpus(self) -> float:
        """CPUs that nobody has reserved."""
        state = GlobalState()
        state._initialize_global_state(
            GcsClientOptions.create(
                self.address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False
            )
        )
        try:
            return float(state.available_resources().get("CPU", 0.0))
        finally:
            state.disconnect()

    def processes(self, name: str) -> list[psutil.Process]:
        """The cluster's worker processes whose title holds `name`."""
        found = []
        for process in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if name in " ".join(process.cmdline()):
                    found.append(process)
        return found


def unused_port() -> int:
    """A port on loopback that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment_without_ray() -> dict[str, str]:
    """The environment less what would lead Ray or W&B elsewhere; this Python's folder is on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "WANDB_"))}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@contextlib.contextmanager
def ray_head(log: Path) -> Iterator[RayHead]:
    """Start a head on loopback; at the end its whole process group is gone."""
    port, gcs_port = unused_port(), unused_port()
    options = {
        "--port": gcs_port,
        "--ray-client-server-port": unused_port(),
        "--dashboard-host": "127.0.0.1",
        "--dashboard-port": port,
        "--dashboard-agent-listen-port": unused_port(),
        "--num-cpus": 2,
        "--object-store-memory": 10**8,
    }
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
    ]
    # Ray puts sockets into its folder, and a socket's path may have 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="hvqray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command += ["--temp-dir", folder, *(f"{name}={value}" for name, value in options.items())]
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                env=environment_without_ray() | {"RAY_AUTH_MODE": "disabled"},
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=folder,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 120
            while not _answers(url):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield RayHead(url, f"127.0.0.1:{gcs_port}", process.pid)
        finally:
            _end(process)


def _end(head: subprocess.Popen[bytes]) -> None:
    """Kill the head and all it started: politely, Ray takes half a minute, and nothing of it is to be kept."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(head.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(head.pid, signal.SIGKILL)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait()
    psutil.wait_procs(family, timeout=20)


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/api/version", timeout=2).ok
    except requests.RequestException:
        return False
