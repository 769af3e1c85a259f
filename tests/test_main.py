"""The console script."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

import hvqray
from hvqray.__main__ import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: hvqray {name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_module_of_its_own(name: str) -> None:
    assert importlib.util.find_spec("hvqray.data.__main__" if name == "data" else f"hvqray.{name}")


def test_a_command_s_exit_code_and_errors_come_through(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err == "hvqray: error: nowhere.yaml: no such file\n"


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["swep"]) == 2
    assert capsys.readouterr().err == "hvqray: error: swep: unknown command; did you mean 'sweep'?\n"


def test_without_a_command_the_list_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    without = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == without
    assert all(f"  {name} " in without for name in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hvqray {hvqray.__version__}\n"


def test_help_of_a_sweep_needs_neither_ray_nor_torch() -> None:
    program = (
        "import sys\n"
        "for name in ('ray', 'torch', 'optuna', 'wandb'): sys.modules[name] = None\n"
        "from hvqray.__main__ import main\n"
        "sys.exit(main(['sweep', '--help']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
