"""What `hvqray.submit` makes of its arguments and of a job's end; jobs themselves: tests/tuning/test_ray_job.py."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from hvqray import submit
from hvqray.command_line import run_command
from hvqray.config.sweep_file import load_sweep
from hvqray.errors import InputError
from hvqray.tuning import ray_job

SPACE = """
method: random
metric: {name: val/image_auroc, goal: maximize}
run_cap: 2
parameters:
  train.lr: {values: [0.001, 0.002]}
"""


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep file in the current directory; no address in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "97")
    for name in submit.ADDRESS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    path = Path("spaces/small.yaml")
    path.parent.mkdir()
    path.write_text(SPACE)
    return path


class Cluster:
    """Takes jobs in place of Ray, and records them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **details: object) -> None:
        self.details = SimpleNamespace(
            **{"status": "SUCCEEDED", "driver_exit_code": 0, "message": ""} | details
        )
        self.address = ""
        self.jobs: list[SimpleNamespace] = []
        self.stopped: list[str] = []
        monkeypatch.setattr(ray_job, "connect", self.connect)
        monkeypatch.setattr(ray_job, "submit", self.submit)
        monkeypatch.setattr(ray_job, "follow", self.follow)
        monkeypatch.setattr(ray_job, "stop", lambda client, job_id: self.stopped.append(job_id))

    def connect(self, address: str) -> Cluster:
        self.address = address
        return self

    def submit(self, client, entrypoint, *, working_dir, env_vars, submission_id):
        files = sorted(
            str(path.relative_to(working_dir)) for path in working_dir.rglob("*") if path.is_file()
        )
        self.jobs.append(SimpleNamespace(entrypoint=list(entrypoint), files=files, env_vars=dict(env_vars)))
        return submission_id or "made-by-ray"

    def follow(self, client, job_id, write):
        write("the sweep's log\n")
        return self.details


def run(*arguments: object) -> int:
    return run_command(submit.main, [str(argument) for argument in arguments])


class TestTheJob:
    def test_runs_the_sweep_of_the_file_with_absolute_paths(self, space, monkeypatch, tmp_path, capsys):
        cluster = Cluster(monkeypatch)
        options = [
            "--cache-limit",
            "20GB",
            "--data",
            "spaces/../photos",
            "--out",
            "results",
            "--num-trials",
            "3",
            "--time-budget",
            "90m",
            "--resume",
            "--per-class",
            "--wandb",
            "offline",
        ]
        assert run(space, "--address", "http://head:8265/", *options, "--set", "train.epochs=1") == 0
        [job] = cluster.jobs
        assert cluster.address == "http://head:8265"
        assert job.files == ["small.yaml"]
        assert job.env_vars == {"COLUMNS": "97"}
        expected = ["python", "-m", "hvqray.sweep", "small.yaml", "--out", f"{tmp_path}/results"]
        expected += ["--data", f"{tmp_path}/photos"]
        expected += ["--cache-limit", "20GB", "--set", "train.epochs=1", "--num-trials", "3"]
        expected += ["--time-budget", "5400.0", "--wandb", "offline", "--per-class", "--resume"]
        assert job.entrypoint == expected
        output = capsys.readouterr()
        assert output.out == "the sweep's log\n"
        assert f"--out results is {tmp_path}/results on the cluster" in output.err

    def test_its_arguments_are_ones_that_sweep_takes(self, space, monkeypatch, capsys):
        from hvqray import sweep

        cluster = Cluster(monkeypatch)
        assert run(space, "--address", "http://head:8265", "--cache-dir", "cache", "--time-budget", "1h") == 0
        monkeypatch.chdir(space.parent)
        seen = []
        monkeypatch.setattr(
            "hvqray.config.sweep_file.load_sweep", lambda *given: seen.append(given) or stop()
        )

        def stop() -> None:
            raise InputError("far enough")

        assert run_command(sweep.main, cluster.jobs[0].entrypoint[3:]) == 2
        assert "far enough" in capsys.readouterr().err
        assert seen[0][0] == "small.yaml"

    def test_relative_paths_of_the_file_become_absolute_too(self, space, monkeypatch, tmp_path):
        space.write_text(SPACE + "data: {root: photos, backbone: {weights: weights/lite0.safetensors}}\n")
        cluster = Cluster(monkeypatch)
        run(space, "--address", "http://head:8265")
        entrypoint = cluster.jobs[0].entrypoint
        assert entrypoint[entrypoint.index("--data") + 1] == f"{tmp_path}/photos"
        assert entrypoint[-1] == f"data.backbone.weights={tmp_path}/weights/lite0.safetensors"

    def test_the_home_is_that_of_here(self, space, monkeypatch, tmp_path, capsys):
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        cluster = Cluster(monkeypatch)
        run(space, "--address", "http://head:8265", "--cache-dir", "~/cc", "--out", "~/runs")
        words = cluster.jobs[0].entrypoint
        assert words[words.index("--cache-dir") + 1] == f"{tmp_path}/home/cc"
        assert words[words.index("--out") + 1] == f"{tmp_path}/home/runs"
        assert f"--cache-dir ~/cc is {tmp_path}/home/cc on the cluster" in capsys.readouterr().err

    def test_files_of_searched_weights_become_absolute_too(self, space, monkeypatch, tmp_path):
        searched = "  data.backbone.weights: {values: [auto, 'my weights #1.pth']}\n"
        depends = "  train.epochs: {values: [1, 2], when: {data.backbone.weights: 'my weights #1.pth'}}\n"
        space.write_text(SPACE + searched + depends)
        cluster = Cluster(monkeypatch)
        run(space, "--address", "http://head:8265")
        entrypoint = cluster.jobs[0].entrypoint
        overrides = [entrypoint[i + 1] for i, word in enumerate(entrypoint) if word == "--set"]
        expected = load_sweep(space).parameters
        (tmp_path / "job").mkdir()
        monkeypatch.chdir(tmp_path / "job")
        there = load_sweep(tmp_path / space, overrides)
        assert there.parameters["data.backbone.weights"].values == ["auto", f"{tmp_path}/my weights #1.pth"]
        assert there.parameters == expected

    def test_ship_code_sends_the_package_without_its_caches(self, space, monkeypatch):
        cluster = Cluster(monkeypatch)
        run(space, "--address", "http://head:8265", "--ship-code")
        files = cluster.jobs[0].files
        assert {"small.yaml", "hvqray/sweep.py", "hvqray/config/sections.py"} <= set(files)
        assert not [name for name in files if "__pycache__" in name]

    def test_a_secret_travels_when_asked_and_is_not_shown(self, space, monkeypatch, capsys):
        monkeypatch.setenv("WANDB_API_KEY", "hush-hush")
        cluster = Cluster(monkeypatch)
        run(space, "--address", "http://head:8265", "--env", "WANDB_API_KEY", "--env", "GREETING=a=b")
        expected = {"COLUMNS": "97", "WANDB_API_KEY": "hush-hush", "GREETING": "a=b"}
        assert cluster.jobs[0].env_vars == expected
        output = capsys.readouterr()
        assert "hush" not in output.out + output.err + " ".join(cluster.jobs[0].entrypoint)

    def test_no_follow_says_how_to_follow_and_stop(self, space, monkeypatch, capsys):
        Cluster(monkeypatch, driver_exit_code=1)
        assert run(space, "--address", "http://head:8265", "--no-follow", "--submission-id", "mine") == 0
        output = capsys.readouterr()
        assert output.out == ""
        assert "ray job logs --address http://head:8265 --follow mine" in output.err
        assert "ray job stop --address http://head:8265 mine" in output.err


class TestExitCode:
    @pytest.mark.parametrize("code", [0, 1, 2, 130])
    def test_is_the_sweep_s_own(self, space, monkeypatch, code):
        Cluster(monkeypatch, driver_exit_code=code, status="SUCCEEDED" if code == 0 else "FAILED")
        assert run(space, "--address", "http://head:8265") == code

    def test_130_for_a_stopped_job(self, space, monkeypatch):
        Cluster(monkeypatch, driver_exit_code=None, status="STOPPED")
        assert run(space, "--address", "http://head:8265") == 130

    @pytest.mark.parametrize("code", [-9, 137])
    def test_1_for_a_killed_one(self, space, monkeypatch, capsys, code):
        Cluster(monkeypatch, driver_exit_code=code, status="FAILED")
        assert run(space, "--address", "http://head:8265") == 1
        assert "signal 9 ended" in capsys.readouterr().err

    def test_1_for_one_that_never_ran(self, space, monkeypatch, capsys):
        Cluster(monkeypatch, driver_exit_code=None, status="FAILED", message="runtime_env setup failed")
        assert run(space, "--address", "http://head:8265") == 1
        assert "runtime_env setup failed" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("code", "message", "mend"),
        [
            (1, "ModuleNotFoundError: No module named 'hvqray'", "--ship-code"),
            (1, "/usr/bin/python: No module named hvqray.sweep", "--ship-code"),
            (127, "sh: 1: python: not found", "before `ray start`"),
        ],
    )
    def test_2_where_the_cluster_is_not_ready(self, space, monkeypatch, capsys, code, message, mend):
        Cluster(monkeypatch, driver_exit_code=code, status="FAILED", message=message)
        assert run(space, "--address", "http://head:8265") == 2
        assert mend in capsys.readouterr().err


@pytest.mark.usefixtures("ctrl_c")
class TestCtrlC:
    @pytest.fixture
    def cluster(self, space, monkeypatch):
        cluster = Cluster(monkeypatch)

        def interrupted(client, job_id, write):
            raise KeyboardInterrupt

        monkeypatch.setattr(ray_job, "follow", interrupted)
        monkeypatch.setattr(submit, "SECOND_INTERRUPT_S", 0.05)
        return cluster

    def test_once_leaves_the_job_running(self, space, cluster, capsys):
        assert run(space, "--address", "http://head:8265") == 130
        assert cluster.stopped == []
        assert "ray job stop --address http://head:8265 made-by-ray" in capsys.readouterr().err

    def test_twice_stops_it(self, space, cluster, monkeypatch):
        monkeypatch.setattr(submit.time, "sleep", lambda seconds: signal.raise_signal(signal.SIGINT))
        assert run(space, "--address", "http://head:8265") == 130
        assert cluster.stopped == ["made-by-ray"]


class TestFaults:
    @pytest.mark.parametrize(
        ("arguments", "fault"),
        [
            ([], "--address: missing"),
            (["--address", "head:8265"], "--address: 'head:8265' is not the URL of a dashboard"),
            (["--address", "ray://head:10001"], "give --address http://HOST:8265"),
            (
                ["--address", "http://h:1", "--env", "NO_SUCH_VARIABLE"],
                "--env: NO_SUCH_VARIABLE is not set here",
            ),
            (["--address", "http://h:1", "--env", "=x"], "--env: '' is not a variable's name"),
            (["--address", "http://h:1", "--set", "train.epoch=1"], "did you mean"),
            (["--address", "http://h:1", "--cache-limit", "much"], "--cache-limit: 'much' is no size"),
        ],
    )
    def test_end_before_anything_is_sent(self, space, monkeypatch, capsys, arguments, fault):
        cluster = Cluster(monkeypatch)
        assert run(space, *arguments) == 2
        error = capsys.readouterr().err
        assert fault in error
        assert error.count("\n") == 1
        assert cluster.address == ""

    def test_the_space_is_checked_here(self, space, monkeypatch, capsys):
        space.write_text(SPACE.replace("train.lr", "train.learning_rate"))
        cluster = Cluster(monkeypatch)
        assert run(space, "--address", "http://head:8265") == 2
        assert "train.learning_rate" in capsys.readouterr().err
        assert cluster.jobs == []

    @pytest.mark.parametrize(
        ("arguments", "fault"),
        [
            (["--set", "method=bayess"], "--set: method: 'bayess' is no method; did you mean 'bayes'?"),
            (["--set", "run_cap=null"], "run_cap: is null, so the sweep would never end"),
        ],
    )
    def test_what_the_job_would_refuse_at_once_is_told_here(
        self, space, monkeypatch, capsys, arguments, fault
    ):
        cluster = Cluster(monkeypatch)
        assert run(space, "--address", "http://head:8265", *arguments) == 2
        error = capsys.readouterr().err
        assert fault in error
        assert error.count("\n") == 1
        assert cluster.address == ""
        if "run_cap=null" in arguments:
            assert run(space, "--address", "http://head:8265", *arguments, "--time-budget", "1h") == 0


class TestAddress:
    def test_the_option_wins_then_the_api_server_s_variable_then_ray_address(self):
        environ = {"RAY_ADDRESS": "http://c:1", "RAY_API_SERVER_ADDRESS": "https://b:1"}
        assert submit.resolve_address("http://a:1", environ) == ("http://a:1", "--address")
        assert submit.resolve_address(None, environ) == ("https://b:1", "RAY_API_SERVER_ADDRESS")
        del environ["RAY_API_SERVER_ADDRESS"]
        assert submit.resolve_address(None, environ) == ("http://c:1", "RAY_ADDRESS")

    def test_a_fault_names_the_variable(self):
        with pytest.raises(InputError, match="RAY_ADDRESS: 'auto' is not the URL"):
            submit.resolve_address(None, {"RAY_ADDRESS": "auto"})


def test_a_sweep_without_data_leaves_the_choice_to_the_cluster(space):
    options = submit._parser().parse_args(
        [str(space), "--address", "http://head:8265", "--out", "/shared/runs"]
    )
    assert submit.sweep_arguments(options, load_sweep(space)) == ["small.yaml", "--out", "/shared/runs"]
