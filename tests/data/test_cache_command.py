"""`python -m hvqray.data cache`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hvqray.config.data_sections import DataConfig
from hvqray.data import cache_command, commands
from hvqray.data.cache import CACHE_VARIABLE, cache_entries
from hvqray.errors import InputError


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def build(root: Path) -> int:
    small = ["--image-size", "32", "--backbone", "resnet18", "--weights", "random", "--strides", "4", "8"]
    return commands.main(["cache", "--data", str(root), *small])


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


def test_the_cache_is_built_of_what_the_options_say(
    mvtec_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[DataConfig, dict[str, object]]] = []

    def record(config: DataConfig, **options: object) -> None:
        asked.append((config, options))
        raise InputError("far enough")

    monkeypatch.setattr(cache_command, "prepare_data", record)
    of_data = ["--data", str(mvtec_root), "--layout", "mvtec_ad", "--classes", "cloth", "--bit-depth", "12"]
    of_backbone = [
        "--backbone",
        "resnet18",
        "--weights",
        "random",
        "--strides",
        "4",
        "8",
        "--grid-stride",
        "8",
    ]
    others = ["--image-size", "72", "--adapt-batchnorm", "--limit", "2GB", "--cache-dir", str(tmp_path / "c")]
    assert commands.main(["cache", *of_data, *of_backbone, *others]) == 2
    ((config, options),) = asked
    assert config == DataConfig.model_validate(
        {
            "root": str(mvtec_root),
            "layout": "mvtec_ad",
            "classes": ["cloth"],
            "bit_depth": 12,
            "backbone": {"name": "resnet18", "weights": "random", "strides": [4, 8], "grid_stride": 8},
            "image_size": 72,
            "adapt_batchnorm": True,
        }
    )
    assert options["cache_dir"] == tmp_path / "c"
    assert (options["cache_limit_bytes"], options["device"]) == (2 * 10**9, "cpu")


def test_cache_dir_option(mvtec_root: Path, tmp_path: Path, cache_dir: Path) -> None:
    other = tmp_path / "other"
    small = ["--image-size", "32", "--backbone", "resnet18", "--weights", "random", "--strides", "4"]
    assert commands.main(["cache", "--data", str(mvtec_root), "--cache-dir", str(other), *small]) == 0
    assert len(cache_entries(other)) == 2
    assert not cache_dir.exists()
