"""Files that are whole at any moment."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
from full_disk import files_of_at_most

from hvqray.atomic import (
    check_file,
    check_folder_can_be_made,
    expanded,
    make_folder,
    naming,
    remove_empty,
    remove_unfinished,
    replacing,
    write_atomically,
)
from hvqray.errors import InputError


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


def test_a_write_that_the_disk_refuses_names_the_file(tmp_path: Path) -> None:
    target = tmp_path / "result.txt"
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large") as refused:
        write_atomically(target, bytes(2000))
    assert (refused.value.errno, refused.value.filename) == (errno.EFBIG, str(target))
    assert list(tmp_path.iterdir()) == []


def test_where_the_file_aside_cannot_be_made_the_target_is_named(tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "result.txt"
    with pytest.raises(FileNotFoundError) as refused:
        write_atomically(target, "content")
    assert refused.value.filename == str(target)


def test_an_error_keeps_the_name_and_the_text_that_it_has(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing, replacing(tmp_path / "copy.txt"):
        (tmp_path / "source.txt").read_text()
    assert missing.value.filename == str(tmp_path / "source.txt")
    with pytest.raises(OSError, match=r"^what a library says$"), naming(tmp_path / "copy.txt"):
        raise OSError("what a library says")


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / f"[{'x' * 80}].txt"
    with replacing(target) as aside:
        left = aside.with_name(f"{aside.name}2")
        left.write_text("half of it")
    others = [tmp_path / ".other.txt.abc", tmp_path / f".{target.name}"]
    for other in others:
        other.write_text("")
    remove_unfinished(target)
    assert sorted(tmp_path.iterdir()) == sorted([target, *others])


@pytest.mark.parametrize("name", ["x" * 255, "\N{GRINNING FACE}" * 63])
def test_a_name_may_be_as_long_as_the_disk_takes_it(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, "content")
    assert (tmp_path / name).read_text() == "content"


def test_what_cannot_be_written_is_told_before(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "there.json").write_text("{}")
    for fine in ("new.json", "there.json", "new/new.json"):
        check_file(tmp_path / fine, option="--out")
    for name, reason in (("folder.json", "it is a folder"), ("x" * 256, "File name too long")):
        with pytest.raises(InputError) as refused:
            check_file(tmp_path / name, option="--out")
        assert (
            str(refused.value) == f"--out {tmp_path / name}: cannot be written ({reason}); name another file"
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.json", "there.json"]


def test_a_folder_that_cannot_be_made_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for fine in ("new", "new/new", "."):
        check_folder_can_be_made(tmp_path / fine, option="--out")
    for name, reason in (("file/new", "Not a directory"), ("x" * 256, "File name too long")):
        for refuse in (check_folder_can_be_made, make_folder):
            with pytest.raises(InputError) as refused:
                refuse(tmp_path / name, option="--out")
            told = f"--out {tmp_path / name}: cannot be written to ({reason}); name another folder"
            assert str(refused.value) == told
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    for refuse in (check_folder_can_be_made, make_folder):
        with pytest.raises(InputError, match="circle/new: cannot be written to"):
            refuse(circle / "new", option="--out")
    circle.unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(InputError, match=r"new/new: cannot be written to \(Permission denied\)"):
        check_folder_can_be_made(tmp_path / "new" / "new", option="--out")
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(InputError, match=r"cannot be written to \(Read-only file system\)"):
        make_folder(tmp_path, option="--out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_home_that_nobody_has_is_a_name_as_in_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of/this")
    assert expanded("~/runs") == Path("/home/of/this/runs")
    for other in ("~nobody-of-this-name/runs", "runs/~"):
        assert expanded(other) == expanded(Path(other)) == Path(other)


def test_what_was_made_for_nothing_is_removed_and_what_was_there_or_is_used_is_not(tmp_path: Path) -> None:
    made = make_folder(tmp_path / "runs" / "small", option="--out")
    assert made == [tmp_path / "runs" / "small", tmp_path / "runs"]
    assert make_folder(tmp_path / "runs" / "small", option="--out") == []
    (tmp_path / "runs" / "other").mkdir()
    remove_empty(made)
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", "other"]
    (tmp_path / "runs" / "other").rmdir()
    remove_empty(made)
    assert list(tmp_path.iterdir()) == []
