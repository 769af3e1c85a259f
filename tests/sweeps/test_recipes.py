"""The recipes in sweeps/: they parse, fit their schemas, and call hvqray.sweep with options that it has."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from hvqray import submit, sweep

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "sweeps"
LAUNCHER_FILES = ["cluster.yaml", "cluster-aws.yaml"]


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((RECIPES / name).read_text())


def test_the_check_itself_tells_an_unknown_option(accepts):
    assert accepts(sweep.main, ["space.yaml", "--out", "x"])
    assert not accepts(sweep.main, ["space.yaml", "--no-such-option"])


class TestLauncher:
    @pytest.mark.parametrize("name", LAUNCHER_FILES)
    def test_fits_ray_s_own_schema(self, name):
        from ray.autoscaler._private.util import prepare_config, validate_config

        prepared = prepare_config(load(name))
        validate_config(prepared)
        assert prepared["max_workers"] >= 1

    def test_on_aws_the_head_can_start_workers(self):
        """Ray would have the head run the system's pip, which its image need not have, for the library it starts machines with."""
        from ray.autoscaler._private.util import prepare_config

        prepared = prepare_config(load("cluster-aws.yaml"))
        commands = [*prepared["setup_commands"], *prepared["head_setup_commands"]]
        assert all("~/hvqray-env/bin/pip" in line for line in commands if "pip" in line)
        assert "~/hvqray-env/bin/pip install --quiet boto3" in commands

    @pytest.mark.parametrize("name", LAUNCHER_FILES)
    def test_the_dashboard_listens_on_loopback_only(self, name):
        [start] = [line for line in load(name)["head_start_ray_commands"] if "ray start" in line]
        assert "--dashboard-host=127.0.0.1" in start
        assert start.startswith(". ~/hvqray-env/bin/activate && ")  # so that jobs find `python`

    @pytest.mark.parametrize("name", LAUNCHER_FILES)
    def test_machines_do_not_build_in_one_folder(self, name):
        [install] = [line for line in load(name)["setup_commands"] if "pip install" in line]
        *_, copy, pip = install.split(" && ")
        assert copy == "cp -r /shared/hvqray ~/hvqray-source"
        assert shlex.split(pip)[1:] == [
            "install",
            "--quiet",
            "~/hvqray-source",
            "--constraint",
            "~/hvqray-source/constraints.txt",
        ]

    @pytest.mark.parametrize("name", LAUNCHER_FILES)
    def test_the_submit_line_in_its_head_is_right(self, name, accepts):
        [line] = [line for line in (RECIPES / name).read_text().splitlines() if "hvqray submit" in line]
        _, _, *arguments = shlex.split(line.lstrip("# "))
        assert accepts(submit.main, arguments)
        assert (ROOT / arguments[0]).is_file()


class TestRayJob:
    def test_entrypoint_is_a_sweep(self, accepts):
        python, module, name, *arguments = shlex.split(load("rayjob.yaml")["spec"]["entrypoint"])
        assert [python, module, name] == ["python", "-m", "hvqray.sweep"]
        assert accepts(sweep.main, arguments)

    def test_every_path_of_the_entrypoint_lies_on_a_volume_of_every_pod(self):
        spec = load("rayjob.yaml")["spec"]
        paths = [word for word in shlex.split(spec["entrypoint"]) if word.startswith("/")]
        assert paths
        groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
        for group in groups:
            pod = group["template"]["spec"]
            [container] = pod["containers"]
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert set(mounts.values()) <= {volume["name"] for volume in pod["volumes"]}
            assert all(any(path.startswith(f"{mount}/") for mount in mounts) for path in paths)

    def test_fields_of_the_api(self):
        job = load("rayjob.yaml")
        assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
        assert job["metadata"].keys() & {"name", "generateName"}
        assert set(job["spec"]) <= {
            "entrypoint",
            "submissionMode",
            "backoffLimit",
            "shutdownAfterJobFinishes",
            "ttlSecondsAfterFinished",
            "activeDeadlineSeconds",
            "rayClusterSpec",
        }
        cluster = job["spec"]["rayClusterSpec"]
        assert cluster["rayVersion"] == version("ray")
        for group in cluster["workerGroupSpecs"]:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert all(isinstance(value, str) for value in cluster["headGroupSpec"]["rayStartParams"].values())

    def test_head_and_workers_run_one_image(self):
        cluster = load("rayjob.yaml")["spec"]["rayClusterSpec"]
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        assert len({group["template"]["spec"]["containers"][0]["image"] for group in groups}) == 1


STUBS = {
    "scontrol": "printf 'node-a\\nnode-b\\n'",
    "hostname": "echo '127.0.1.1 10.1.2.3 fe80::1 192.0.2.7'",
    # Options go, the command stays.
    "srun": 'echo "srun $*" >>"$CALLS"; while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "ray": '[ -z "${RAY_FAILS:-}" ] || exit 1; echo "ray $*" >>"$CALLS"; exec sleep 60',
    "python": """
        case "$1" in
            -c) echo secret ;;
            -) cat >/dev/null; grep -c '^ray start' "$CALLS" ;;
            -m) echo "python $*" >>"$CALLS"
                trap 'exit 130' TERM
                for _ in $(seq "${SWEEP_TENTHS:-0}"); do sleep 0.1; done
                exit "${SWEEP_EXIT:-0}" ;;
        esac""",
}


class Slurm:
    """Runs the batch script where srun, ray and python are stubs that write down how they were called."""

    def __init__(self, folder: Path) -> None:
        self.calls_file = folder / "calls"
        self.calls_file.touch()
        stubs = folder / "bin"
        stubs.mkdir()
        for name, script in STUBS.items():
            (stubs / name).write_text(f"#!/bin/bash\n{script}\n")
            (stubs / name).chmod(0o755)
        self.environment = {
            "PATH": f"{stubs}:{os.environ['PATH']}",
            "HOME": str(folder),
            "CALLS": str(self.calls_file),
            "SLURM_JOB_NODELIST": "node-[a-b]",
            "SLURM_JOB_ID": "123457",
            "SLURM_CPUS_PER_TASK": "8",
        }
        self.arguments = ["space.yaml", "--data", "/shared/data", "--out", "/shared/runs"]

    def start(self, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", RECIPES / "slurm.sbatch", *self.arguments],
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        output, _ = process.communicate(timeout=40)
        return process.returncode, output

    def calls(self, start: str) -> list[str]:
        return [line for line in self.calls_file.read_text().splitlines() if line.startswith(start)]


class TestSlurm:
    @pytest.fixture
    def slurm(self, tmp_path: Path) -> Slurm:
        return Slurm(tmp_path)

    def test_starts_head_and_worker_runs_the_sweep_on_them_and_stops_them(self, slurm, accepts):
        process = slurm.start()
        assert slurm.finish(process)[0] == 0
        head, worker = slurm.calls("ray")
        assert "--head" in head
        assert "--node-ip-address=10.1.2.3" in head  # not a loopback address
        assert "--num-cpus=8" in head
        [port] = [word.removeprefix("--port=") for word in head.split() if word.startswith("--port=")]
        assert f"--address=10.1.2.3:{port}" in worker
        assert not [call for call in slurm.calls("srun") if "secret" in call]
        [call] = slurm.calls("python")
        _, _, module, *arguments = shlex.split(call)
        assert module == "hvqray.sweep"
        assert arguments == [*slurm.arguments, "--address", f"10.1.2.3:{port}"]
        assert accepts(sweep.main, arguments)
        with pytest.raises(ProcessLookupError):  # nothing of the job's process group is left
            os.killpg(process.pid, 0)

    @pytest.mark.parametrize("code", ["1", "2", "130"])
    def test_its_exit_code_is_the_sweep_s(self, slurm, code):
        assert slurm.finish(slurm.start(SWEEP_EXIT=code))[0] == int(code)

    def test_slurm_s_warning_ends_the_sweep_and_not_the_script(self, slurm):
        process = slurm.start(SWEEP_TENTHS="150")
        deadline = time.monotonic() + 10
        while not slurm.calls("python"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert slurm.finish(process)[0] == 130

    def test_a_ray_that_does_not_start_is_told_of(self, slurm):
        code, output = slurm.finish(slurm.start(RAY_FAILS="1"))
        assert code == 1
        assert "Ray did not start" in output
        assert not slurm.calls("python")

    def test_without_a_space_it_says_how_to_call_it(self, slurm):
        slurm.arguments = []
        code, output = slurm.finish(slurm.start())
        assert code == 2
        assert output.startswith("usage: sbatch ")


def test_the_readme_names_every_recipe():
    text = (RECIPES / "README.md").read_text()
    recipes = {path.name for path in RECIPES.iterdir() if path.is_file()} - {"README.md"}
    assert recipes == {name for name in recipes if f"({name})" in text}
    assert "(paper/README.md)" in text
