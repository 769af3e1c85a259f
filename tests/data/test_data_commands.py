"""`python -m hvqray.data`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hvqray.data import commands
from hvqray.data.cache import CACHE_VARIABLE, cache_entries


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def build(root: Path) -> int:
    small = ["--image-size", "32", "--backbone", "resnet18", "--weights", "random", "--strides", "4", "8"]
    return commands.main(["cache", "--data", str(root), *small])


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


def test_cache_builds_lists_and_clears(
    mvtec_root: Path, cache_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(mvtec_root) == 0
    assert "30 images, features 192x2x2" in capsys.readouterr().out
    assert len(cache_entries(cache_dir)) == 2
    assert commands.main(["cache", "--list"]) == 0
    assert "30 images at 32 px" in capsys.readouterr().out
    assert commands.main(["cache", "--clear"]) == 0
    assert "removed 2 entries" in capsys.readouterr().out
    assert cache_entries(cache_dir) == []


def test_clear_with_a_limit_leaves_what_was_used_last(
    mvtec_root: Path, cache_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(mvtec_root) == 0
    old, new = cache_entries(cache_dir)
    os.utime(old.path, (0, 0))
    assert commands.main(["cache", "--clear", "--limit", "1GB"]) == 0
    assert len(cache_entries(cache_dir)) == 2
    assert commands.main(["cache", "--clear", "--limit", f"{new.size_bytes}B"]) == 0
    assert [entry.path for entry in cache_entries(cache_dir)] == [new.path]
    assert capsys.readouterr().out.splitlines()[-1].startswith("removed 1 entries (")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--list", "--clear"], "not allowed with argument --list"),
        (["--list", "--limit", "1GB"], "--list: goes without --limit"),
        (["--clear", "--data", "ROOT", "--bit-depth", "12"], "--clear: goes without --data, --bit-depth"),
        (["--list", "--adapt-batchnorm"], "--list: goes without --adapt-batchnorm"),
    ],
)
def test_the_cache_is_listed_or_cleared_or_built(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = commands.main(["cache", *options])
    except SystemExit as end:  # argparse's own
        code = int(end.code or 0)
    assert code == 2
    assert told in capsys.readouterr().err


def test_cache_dir_option(mvtec_root: Path, tmp_path: Path, cache_dir: Path) -> None:
    other = tmp_path / "other"
    small = ["--image-size", "32", "--backbone", "resnet18", "--weights", "random", "--strides", "4"]
    assert commands.main(["cache", "--data", str(mvtec_root), "--cache-dir", str(other), *small]) == 0
    assert len(cache_entries(other)) == 2
    assert not cache_dir.exists()


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
