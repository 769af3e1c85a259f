"""`python -m hvqray.data`."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvqray.data import commands
from hvqray.data.cache import CACHE_VARIABLE


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_describe(mvtec_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["describe", str(mvtec_root)]) == 0
    output = capsys.readouterr().out
    row = next(line for line in output.splitlines() if "bolt" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "bolt",
        "5",
        "4",
        "6",
        "6 of 6",
        "40x32",
        "RGB 15",
    ]
    assert "cut 3" in output


def test_check_passes(mvtec_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["check", str(mvtec_root)]) == 0
    assert capsys.readouterr().out == "30 images of 2 classes: 0 faults\n"


def test_one_class_is_one_class(mvtec_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = min(folder.name for folder in mvtec_root.iterdir() if folder.is_dir())
    assert commands.main(["check", str(mvtec_root), "--classes", name]) == 0
    assert capsys.readouterr().out == "15 images of 1 class: 0 faults\n"


def test_check_names_faults(mvtec_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mvtec_root / "bolt/ground_truth/cut/01_mask.png").unlink()
    (mvtec_root / "bolt/ground_truth/cut/02_mask.png").unlink()
    assert commands.main(["check", str(mvtec_root)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "bolt/test/cut/01.png" in lines[0]
    assert lines[-1].endswith("2 faults")


def test_synth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []
    monkeypatch.setattr(
        commands, "write_synthetic", lambda folder, seed, *, progress: asked.append((folder, seed))
    )
    assert commands.main(["synth", "--out", str(tmp_path / "set"), "--seed", "3"]) == 0
    assert asked == [(tmp_path / "set", 3)]
    assert commands.main(["synth", "--out", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["describe", "/nowhere"], "data.root: /nowhere is not a folder"),
        (["check", "ROOT", "--classes", "blot"], "did you mean 'bolt'"),
        (
            ["cache", "--data", "ROOT", "--image-size", "100"],
            "error: --image-size: 100 is out of range; must be a multiple of 16",
        ),
        (["cache", "--data", "ROOT", "--image-size", "16"], "error: --image-size: 16 is out of range"),
        (["cache", "--data", "ROOT", "--strides", "4", "3"], "error: --strides: 3 is not one of 2, 4, 8, 16"),
        (["describe", "--cache-dir", "/proc/x"], "error: --cache-dir /proc/x: cannot be written to ("),
        (["describe", "--cache-dir", "ROOT/bolt/test/good/00.png"], "cannot be written to (File exists)"),
        (["cache", "--data", "ROOT", "--cache-dir", "/proc/x"], "error: --cache-dir /proc/x: cannot be"),
        (["describe", ""], "data.root: is empty"),
        (["synth", "--out", "/proc/x/y"], "error: --out /proc/x: cannot be written to ("),
        (["cache", "--data", "ROOT", "--limit", "much"], "'much' is no size"),
        (
            ["cache", "--data", "ROOT", "--backbone", "resnet81", "--weights", "random"],
            "no backbone 'resnet81'",
        ),
    ],
)
def test_faults_are_one_line(
    mvtec_root: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main([word.replace("ROOT", str(mvtec_root)) for word in argv]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hvqray: error:")]
    assert len(errors) == 1
    assert message in errors[0]
