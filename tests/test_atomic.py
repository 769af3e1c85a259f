"""Files that are whole at any moment."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hvqray.atomic import replacing, write_atomically


def write_and_fail(target: Path, error: BaseException) -> None:
    with replacing(target) as aside:
        aside.write_text("half of it")
        raise error


@pytest.mark.parametrize("content", ["naïve\n", b"\x00\xff"])
def test_content_takes_the_file_s_place(tmp_path: Path, content: str | bytes) -> None:
    target = tmp_path / "result.txt"
    target.write_text("old")
    write_atomically(target, content)
    assert target.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert list(tmp_path.iterdir()) == [target]


def test_the_old_file_is_there_until_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "result.txt"
    target.write_text("old")
    with replacing(target) as aside:
        aside.write_text("new")
        assert target.read_text() == "old"
        assert aside.parent == tmp_path, "a rename works within one file system only"
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_failed_write_changes_nothing_and_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "result.txt"
    target.write_text("old")
    with pytest.raises(type(error)):
        write_and_fail(target, error)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path, umask: int, mode: int) -> None:
    target = tmp_path / "result.txt"
    before = os.umask(umask)
    try:
        write_atomically(target, "new")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == mode
