"""Digests of files and their memory."""

from __future__ import annotations

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from full_disk import files_of_at_most

from hvqray.data import digests
from hvqray.data.digests import digest_texts, file_digests
from hvqray.errors import InputError


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    expected = hashlib.blake2b(b"one", digest_size=16).hexdigest()
    assert file_digests([tmp_path / "a"], tmp_path / "memo.json") == {tmp_path / "a": expected}


def test_second_time_reads_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(path.name.encode())
    memo = tmp_path / "memo.json"
    before = file_digests(paths, memo)
    paths[1].write_bytes(b"changed")
    read: list[Path] = []
    digest_file = digests._digest_file
    monkeypatch.setattr(digests, "_digest_file", lambda path: (read.append(path), digest_file(path))[1])
    after = file_digests(paths, memo)
    assert read == [paths[1]]
    assert [after[path] == before[path] for path in paths] == [True, False, True]


def test_same_size_but_another_time_is_read_again(tmp_path: Path) -> None:
    path, memo = tmp_path / "a", tmp_path / "memo.json"
    path.write_bytes(b"one")
    before = file_digests([path], memo)
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert file_digests([path], memo) != before


@pytest.mark.parametrize("content", ["", "{", "null", "[1]"])
def test_damaged_memory_is_only_slower(tmp_path: Path, content: str) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "memo.json").write_text(content)
    assert len(file_digests([tmp_path / "a"], tmp_path / "memo.json")) == 1


def test_writers_of_one_memory_do_not_meet(tmp_path: Path) -> None:
    """Those of two machines that share a cache may have the same process id, as threads have."""
    for number in range(60):
        (tmp_path / f"{number}").write_bytes(b"%d" % number)

    def digest_each(numbers: range) -> None:
        for number in numbers:
            file_digests([tmp_path / f"{number}"], tmp_path / "memo" / "memo.json")

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(digest_each, (range(0, 60, 2), range(1, 60, 2)))) == [None, None]
    assert [path.name for path in (tmp_path / "memo").iterdir()] == ["memo.json"]


def test_a_full_disk_names_the_memory_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    memo = tmp_path / "memo" / "memo.json"
    with files_of_at_most(20), pytest.raises(OSError, match="File too large") as refused:
        file_digests([tmp_path / "a"], memo)
    assert (refused.value.errno, refused.value.filename) == (errno.EFBIG, str(memo))
    assert list(memo.parent.iterdir()) == []


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png: cannot be read"):
        file_digests([tmp_path / "gone.png"], tmp_path / "memo.json")


def test_texts_are_kept_apart() -> None:
    assert digest_texts(["ab", "c"]) != digest_texts(["a", "bc"]) != digest_texts(["abc"])
