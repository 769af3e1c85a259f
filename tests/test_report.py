from __future__ import annotations

from pathlib import Path

import optuna
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


def test_a_server_that_is_away_is_one_line_and_a_file_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def away() -> None:
        raise wandb.errors.CommError("the server is away")

    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "Api", away)
    folder = write_fake_sweep(tmp_path / "one", num_trials=2)
    assert run_command(main, [str(folder), "--wandb", "--entity", "team"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(
        "hvqray: error: --wandb: W&B does not take the report (CommError: the server is away)"
    )
    assert told.count("\n") == 1
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert run_command(main, [str(folder), "--wandb", "--entity", "team"]) == 0
    assert (folder / "wandb-report.json").exists()


def test_wandb_report_is_that_of_the_entity_and_the_project_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        "hvqray.results.wandb_report.build_wandb_report",
        lambda folder, **options: asked.append((options["entity"], options["project"])),
    )
    folder = write_fake_sweep(tmp_path / "one", num_trials=1)
    for options in ([], ["--entity", "team", "--project", "parts"]):
        assert run_command(main, [str(folder), "--wandb", *options]) == 0
    assert asked == [(None, None), ("team", "parts")]


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


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("best/metrics.json", b"{", "is damaged ("),
        (
            "best/metrics.json",
            b"{}",
            "is damaged (KeyError: 'metrics'); hvqray.sweep with --resume lays best/ out again",
        ),
        (
            "study.db",
            bytes(range(256)) * 16,
            "cannot be read (file is not a database); restore it, or remove it: the report",
        ),
        (
            "sweep.yaml",
            b"metric: 3",
            "metric: 3 is no metric of a sweep, such as {name: val/image_auroc, goal: maximize}; restore",
        ),
        (
            "sweep.yaml",
            b"metric: {name: val/image_auroc}",
            "metric: {'name': 'val/image_auroc'} is no metric",
        ),
        ("sweep.yaml", b"metric: []", "metric: is empty"),
        (
            "sweep.yaml",
            b"metric: {name: a, goal: maximize}\ndata: 3",
            "data: 3 is no section of a sweep file",
        ),
        ("sweep.yaml", b"\xff\xfe\xff", "not a text file in UTF-8"),
    ],
)
def test_damaged_files_are_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, told: str
) -> None:
    folder = write_fake_sweep(tmp_path / "one", num_trials=1)
    (folder / name).write_bytes(content)
    assert run_command(main, [str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hvqray: error: {folder / name}: {told}")
    assert not (folder / "report.html").exists()


def test_a_torn_study_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_fake_sweep(tmp_path / "one", num_trials=3)
    whole = (folder / "study.db").read_bytes()
    (folder / "study.db").write_bytes(whole[: len(whole) // 2])
    assert run_command(main, [str(folder)]) == 2
    assert f"{folder / 'study.db'}: cannot be read (" in capsys.readouterr().err


def test_without_a_study_its_charts_are_left_out(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "one", num_trials=1)
    study = folder / "study.db"
    study.write_bytes(b"")
    assert run_command(main, [str(folder)]) == 0
    assert "study.db holds no study" in (folder / "report.html").read_text()
    assert study.read_bytes() == b"", "a report changes nothing but itself"
    study.unlink()
    optuna.storages.RDBStorage(f"sqlite:///{study}").engine.dispose()
    assert run_command(main, [str(folder)]) == 0
    assert "study.db holds no study" in (folder / "report.html").read_text()
