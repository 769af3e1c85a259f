"""`sweep --cache-limit`: the cache is cleared to that size before the search."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from small_images import write_space

from hvqray import sweep
from hvqray.command_line import run_command
from hvqray.config.data_sections import DataConfig
from hvqray.tuning import ray_runtime, sweep_data


class Prepared(Exception):
    """The data would have been prepared."""


def test_the_limit_reaches_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def prepare(config: DataConfig, *, cache_limit_bytes: int | None, **options: object) -> None:
        limits.append(cache_limit_bytes)
        raise Prepared

    monkeypatch.setattr(sweep_data, "prepare_data", prepare)
    monkeypatch.setattr(ray_runtime, "ray_session", lambda *_, **__: nullcontext([{"CPU": 2.0}]))
    space = str(write_space(tmp_path))
    for arguments in ([], ["--cache-limit", "1.5GB"]):
        with pytest.raises(Prepared):
            sweep.main([space, "--out", str(tmp_path / "runs"), "--wandb", "disabled", *arguments])
    assert limits == [None, 1_500_000_000]


def test_no_size_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = str(write_space(tmp_path))
    assert run_command(sweep.main, [space, "--out", str(tmp_path / "runs"), "--cache-limit", "much"]) == 2
    assert (
        "--cache-limit: 'much' is no size in bytes; write it like 20GB or 500MB\n" in capsys.readouterr().err
    )
