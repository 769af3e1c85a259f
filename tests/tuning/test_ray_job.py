"""Jobs on a real Ray cluster of this machine, and the follower against a job server that misbehaves."""

from __future__ import annotations

import asyncio
import http.server
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus
from ray_head import RayHead, unused_port

from hvqray.errors import InputError
from hvqray.tuning import ray_job


@pytest.fixture
def dashboard(cluster: RayHead) -> str:
    return cluster.url


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")  # Ray's own call of aiohttp
class TestOnACluster:
    @pytest.fixture
    def client(self, dashboard: str, monkeypatch: pytest.MonkeyPatch) -> object:
        monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")  # an explicit address wins
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
        return ray_job.connect(dashboard)

    def test_a_job_attaches_to_the_cluster_and_returns_its_own_exit_code(self, client, tmp_path):
        (tmp_path / "space.yaml").write_text("name: fixture\n")
        program = (
            "import os, ray; ray.init(log_to_driver=False); "
            "print('CPUs:', ray.cluster_resources()['CPU'], open('space.yaml').read().strip(), os.environ['GREETING']); "
            "raise SystemExit(2)"
        )
        log: list[str] = []
        job = ray_job.submit(
            client,
            [sys.executable, "-c", program],
            working_dir=tmp_path,
            env_vars={"GREETING": "two words"},
            submission_id="attached",
        )
        details = ray_job.follow(client, job, log.append)
        assert job == "attached"
        assert "CPUs: 2.0 name: fixture two words\n" in "".join(log)
        assert details.driver_exit_code == 2
        with pytest.raises(InputError, match="attached: taken on this cluster"):
            ray_job.submit(client, ["true"], working_dir=tmp_path, env_vars={}, submission_id="attached")

    @pytest.mark.usefixtures("ctrl_c")
    def test_ctrl_c_leaves_the_job_running_and_stop_lets_it_end_in_its_own_time(self, client, tmp_path):
        ended = tmp_path / "ended"
        program = (
            "import pathlib, signal, time\n"
            "def end(*_):\n"
            f"    time.sleep(4); pathlib.Path({str(ended)!r}).touch(); raise SystemExit(130)\n"
            "signal.signal(signal.SIGTERM, end)\n"
            "print('now running', flush=True)\n"
            "time.sleep(120)\n"
        )
        (tmp_path / "job").mkdir()
        job = ray_job.submit(
            client, [sys.executable, "-c", program], working_dir=tmp_path / "job", env_vars={}
        )

        def interrupt_once_running(text: str) -> None:
            if "now running\n" in text.splitlines(keepends=True):
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            ray_job.follow(client, job, interrupt_once_running)
        assert client.get_job_status(job) == JobStatus.RUNNING
        ray_job.stop(client, job)
        assert client.get_job_status(job) == JobStatus.STOPPED
        assert ended.exists()  # Ray's default would have killed it after 3 s


class FlakyServer:
    """A job client whose log connection breaks after `pieces_until_loss` pieces, and whose job ends with the log."""

    def __init__(self, pieces: list[str], pieces_until_loss: list[int | None]) -> None:
        self.pieces, self.losses, self.over = pieces, list(pieces_until_loss), False

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        loss = self.losses.pop(0)
        for piece in self.pieces[:loss]:
            yield piece
        if loss is not None:
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
        self.over = True

    def get_job_info(self, job_id: str) -> SimpleNamespace:
        status = JobStatus.SUCCEEDED if self.over else JobStatus.RUNNING
        return SimpleNamespace(status=status, driver_exit_code=0 if self.over else None)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_job, "RETRY_S", 0.0)
    monkeypatch.setattr(ray_job, "IDLE_S", 0.05)


@pytest.mark.usefixtures("no_waiting")
class TestFollow:
    def test_a_lost_connection_repeats_nothing_and_misses_nothing(self):
        server = FlakyServer(["one\n", "two\n", "three\n"], [2, 0, 1, None])
        log: list[str] = []
        assert ray_job.follow(server, "job", log.append).driver_exit_code == 0
        assert "".join(log) == "one\ntwo\nthree\n"

    def test_a_connection_that_died_silently_is_noticed_when_the_job_is_over(self):
        class Silent(FlakyServer):
            async def tail_job_logs(self, job_id):
                yield "one\n"
                self.over = True
                await asyncio.Event().wait()

        log: list[str] = []
        details = ray_job.follow(Silent([], []), "job", log.append)
        assert details.status is JobStatus.SUCCEEDED
        assert "".join(log) == "one\n"

    def test_a_cluster_that_is_gone_ends_it(self):
        class Gone(FlakyServer):
            def get_job_info(self, job_id):
                raise ConnectionError("connection refused")

        with pytest.raises(ray_job.LostClusterError, match="connection refused"):
            ray_job.follow(Gone(["one\n"], [1]), "job", lambda text: None)

    def test_a_fault_of_the_reader_is_not_taken_for_a_lost_connection(self):
        def closed(text: str) -> None:
            raise BrokenPipeError

        with pytest.raises(BrokenPipeError):
            ray_job.follow(FlakyServer(["one\n"], [None]), "job", closed)


@pytest.fixture
def web_server() -> Iterator[tuple[str, dict[str, object]]]:
    """An HTTP server's address, and the status and body that it answers everything with."""
    answer: dict[str, object] = {"status": 200, "body": b"hello"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer["status"])
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", answer
        server.shutdown()
        thread.join()


class TestConnect:
    def test_nothing_there(self):
        address = f"http://127.0.0.1:{unused_port()}"
        begin = time.monotonic()
        with pytest.raises(InputError, match=f"{address}: cannot connect; is the cluster up"):
            ray_job.connect(address)
        assert time.monotonic() - begin < 10

    def test_a_host_that_answers_nothing(self, monkeypatch):
        monkeypatch.setattr(ray_job, "CONNECT_TIMEOUT_S", 0.3)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()  # accepts, and never says a word
            with pytest.raises(InputError, match=r"no answer in 0\.3 s"):
                ray_job.connect(f"http://127.0.0.1:{listener.getsockname()[1]}")

    def test_something_else_than_ray(self, web_server):
        address, _ = web_server
        with pytest.raises(InputError, match="no Ray dashboard answers here"):
            ray_job.connect(address)

    def test_a_token_is_wanted(self, web_server, monkeypatch):
        address, answer = web_server
        answer |= {"status": 401, "body": b"Unauthorized: Missing authentication token"}
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", address)
        with pytest.raises(InputError, match="RAY_AUTH_MODE=token") as fault:
            ray_job.connect(address)
        assert "\n" not in str(fault.value)
