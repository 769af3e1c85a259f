from __future__ import annotations

from pathlib import Path

import pytest
from fake_sweep import write_fake_sweep

from hvqray.command_line import run_command
from hvqray.report import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of wandb-workspaces on import


def test_builds_the_report_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_fake_sweep(tmp_path / "one")
    assert run_command(main, [str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    assert (folder / "report.html").stat().st_size > 1_000_000


def test_wandb_without_a_key_gives_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    folder = write_fake_sweep(tmp_path / "one", num_trials=2)
    assert run_command(main, [str(folder), "--wandb"]) == 0
    assert f"{folder / 'wandb-report.json'} (W&B report as a file" in capsys.readouterr().out
    assert (folder / "wandb-report.json").exists()


def test_a_folder_of_sweeps_of_one_class_each_has_a_joint_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cookie", "road"):
        write_fake_sweep(tmp_path / f"parts-{name}", num_trials=1, classes=(name,))
    assert run_command(main, [str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "one model a class on test" in output
    assert output.endswith(f"{tmp_path / 'report.html'}\n")
    assert (tmp_path / "report.html").exists()
    assert run_command(main, [str(tmp_path), "--wandb"]) == 2
    assert "--wandb takes one sweep, and this is a folder of several" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "missing: is no folder; give the folder of a sweep, OUT/NAME"),
        (["."], ".: sweep.yaml is missing: not a sweep's folder (OUT/NAME)"),
        ([".", "--entity", "team"], "--entity and --project belong to --wandb; add it, or leave them out"),
    ],
)
def test_faults_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(main, arguments) == 2
    assert capsys.readouterr().err == f"hvqray: error: {message}\n"
