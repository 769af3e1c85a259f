"""The cache folder: one build, no half entries, clearing."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from full_disk import files_of_at_most

from hvqray.data.arrow_store import Column, DamagedFileError, TensorWriter
from hvqray.data.cache import (
    CACHE_VARIABLE,
    TENSORS,
    cache_entries,
    chosen_cache_dir,
    clear_cache,
    default_cache_dir,
    open_entry,
    parse_bytes,
)
from hvqray.errors import InputError

BUILDER = """
    import sys, time
    from pathlib import Path
    import numpy as np
    from hvqray.data.arrow_store import Column, TensorWriter
    from hvqray.data.cache import TENSORS, open_entry

    folder = Path(sys.argv[1])

    def build(aside):
        writer = TensorWriter(aside / TENSORS, {"x": Column(np.uint8, (4,))})
        writer.append({"x": np.ones((2, 4), np.uint8)})
        with open(folder / "builds.txt", "a") as log:
            log.write("build\\n")
        while not (folder / "go").exists():
            time.sleep(0.02)
        writer.append({"x": np.ones((1, 4), np.uint8)})
        writer.close()

    said = lambda description, done, total: print(description, flush=True)
    tensors, _ = open_entry(folder / "cache", "numbers-1", build, description="numbers", progress=said)
    print(tensors["x"].shape, int(tensors["x"].sum()), flush=True)
"""


def start_builder(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(BUILDER), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def add(cache_dir: Path, name: str, *, used: float, num_bytes: int = 1000) -> dict[str, np.ndarray]:
    def build(folder: Path) -> None:
        writer = TensorWriter(folder / TENSORS, {"x": Column(np.uint8, (num_bytes,))})
        writer.append({"x": np.zeros((1, num_bytes), np.uint8)})
        writer.close()

    tensors, entry = open_entry(cache_dir, name, build, description=f"what {name} holds")
    os.utime(entry, (used, used))
    return tensors


ENTRY = "images-" + "0123456789abcdef" * 2

DAMAGES: dict[str, Callable[[Path], object]] = {
    "tensors are missing": lambda entry: (entry / TENSORS).unlink(),
    "tensors are empty": lambda entry: os.truncate(entry / TENSORS, 0),
    "tensors break off": lambda entry: os.truncate(entry / TENSORS, 700),
    "another file is missing": lambda entry: (entry / "more.bin").unlink(),
    "another file is empty": lambda entry: os.truncate(entry / "more.bin", 0),
    "everything is missing": lambda entry: [path.unlink() for path in entry.iterdir()],
}


def open_with_more(cache_dir: Path) -> dict[str, np.ndarray]:
    """An entry of two files beside its description."""

    def build(folder: Path) -> None:
        (folder / "more.bin").write_bytes(bytes(10))
        writer = TensorWriter(folder / TENSORS, {"x": Column(np.uint8, (1000,))})
        writer.append({"x": np.full((1, 1000), 7, np.uint8)})
        writer.close()

    return open_entry(cache_dir, ENTRY, build, description="sevens", files=["more.bin"])[0]


def names(cache_dir: Path) -> list[str]:
    return [entry.path.name for entry in cache_entries(cache_dir)]


def test_second_opening_does_not_build(tmp_path: Path) -> None:
    add(tmp_path, "a-1", used=1)

    def fail(folder: Path) -> None:
        raise AssertionError("built twice")

    tensors, entry = open_entry(tmp_path, "a-1", fail, description="a")
    assert tensors["x"].shape == (1, 1000)
    assert time.time() - entry.stat().st_mtime < 60


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise InputError("the data is at fault")

    with pytest.raises(InputError):
        open_entry(tmp_path, "a-1", fail, description="a")
    assert names(tmp_path) == []
    assert not list(tmp_path.glob(".*part-*"))
    add(tmp_path, "a-1", used=1)
    assert names(tmp_path) == ["a-1"]


def two_builders_share_one_build(tmp_path: Path) -> None:
    """The second waits for the first, and both have what it built."""
    first = start_builder(tmp_path)
    wait_for(tmp_path / "builds.txt")
    second = start_builder(tmp_path)
    assert second.stdout is not None
    assert second.stdout.readline().startswith(f"waiting for process {first.pid} on ")
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert (tmp_path / "builds.txt").read_text() == "build\n"
    assert [output.splitlines()[-1] for output in outputs] == ["(3, 4) 12"] * 2


def test_two_processes_share_one_build(tmp_path: Path) -> None:
    two_builders_share_one_build(tmp_path)


def test_killed_builder_leaves_nothing_wrong(tmp_path: Path) -> None:
    victim = start_builder(tmp_path)
    wait_for(tmp_path / "builds.txt")
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=60)
    assert names(tmp_path / "cache") == []
    (tmp_path / "go").touch()
    next_one = start_builder(tmp_path)
    assert next_one.communicate(timeout=60)[0].splitlines()[-1] == "(3, 4) 12"
    assert not list((tmp_path / "cache").glob(".*part-*"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_built_anew_and_told_of(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    open_with_more(tmp_path)
    DAMAGES[damage](tmp_path / ENTRY)
    with caplog.at_level(logging.WARNING):
        assert open_with_more(tmp_path)["x"].sum() == 7000
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path / ENTRY}: the cache entry is damaged (")
    assert record.getMessage().endswith("); it is built anew")
    assert open_with_more(tmp_path)["x"].sum() == 7000
    assert len(caplog.records) == 1
    assert names(tmp_path) == [ENTRY]
    assert not list(tmp_path.glob(".*part-*"))


@pytest.mark.parametrize("damage", ["tensors are missing", "another file is missing"])
def test_who_has_an_entry_open_keeps_it_while_it_is_built_anew(tmp_path: Path, damage: str) -> None:
    held = open_with_more(tmp_path)
    DAMAGES[damage](tmp_path / ENTRY)
    anew = open_with_more(tmp_path)
    assert not np.shares_memory(held["x"], anew["x"])
    assert held["x"].sum() == anew["x"].sum() == 7000


def test_of_two_processes_one_builds_a_damaged_entry_anew(tmp_path: Path) -> None:
    (tmp_path / "cache" / "numbers-1").mkdir(parents=True)
    two_builders_share_one_build(tmp_path)


def test_an_entry_that_comes_out_damaged_is_an_error_and_not_built_for_ever(tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError, match=r"tensors\.arrow is missing"):
        open_entry(tmp_path, ENTRY, lambda folder: None, description="nothing")
    assert names(tmp_path) == []


def test_a_damaged_entry_that_cannot_be_removed_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_with_more(tmp_path)
    (tmp_path / ENTRY / TENSORS).unlink()

    def refuse(path: Path, target: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(InputError) as refused:
        open_with_more(tmp_path)
    assert str(refused.value) == (
        f"{tmp_path / ENTRY}: is damaged (tensors.arrow is missing) and cannot be removed (Permission denied);"
        " remove it, or name another folder with --cache-dir"
    )


@pytest.mark.parametrize("num_bytes", [500, 1200], ids=["rows", "whole"])
def test_a_full_disk_names_the_entry_and_leaves_nothing(tmp_path: Path, num_bytes: int) -> None:
    with files_of_at_most(num_bytes), pytest.raises(OSError, match="File too large") as refused:
        open_with_more(tmp_path)
    assert (refused.value.errno, refused.value.filename) == (errno.EFBIG, str(tmp_path / ENTRY))
    assert names(tmp_path) == []
    assert not list(tmp_path.glob(".*part-*"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entries_are_cleared(tmp_path: Path, damage: str) -> None:
    open_with_more(tmp_path)
    DAMAGES[damage](tmp_path / ENTRY)
    assert [entry.path.name for entry in clear_cache(tmp_path)] == [ENTRY]
    assert not (tmp_path / ENTRY).exists()


def test_an_entry_without_tensors_is_listed_as_damaged_and_goes_at_any_limit(tmp_path: Path) -> None:
    held = open_with_more(tmp_path)
    (tmp_path / ENTRY / TENSORS).unlink()
    (tmp_path / ("features-" + 32 * "0")).mkdir()
    sound = add(tmp_path, "b-1", used=1)
    told = {entry.path.name: (entry.is_damaged, entry.description) for entry in cache_entries(tmp_path)}
    assert told == {
        "b-1": (False, "what b-1 holds"),
        ENTRY: (True, "damaged (tensors.arrow is missing): sevens"),
        "features-" + 32 * "0": (True, "damaged (tensors.arrow is missing): not described"),
    }
    assert len(clear_cache(tmp_path, limit_bytes=10**9)) == 2
    assert names(tmp_path) == ["b-1"]
    assert held["x"].sum() == 7000
    assert sound["x"].sum() == 0


def test_folders_that_are_no_entries_stay(tmp_path: Path) -> None:
    """A cache may be put where other things are."""
    for name, file in (("bolt", "000.png"), ("parts", "description.txt"), ("images-2024", TENSORS)):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("mine")
    assert clear_cache(tmp_path) == cache_entries(tmp_path) == []
    assert len(list(tmp_path.glob("*/*"))) == 3


def test_an_empty_synthetic_set_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "synthetic-v1-seed0").mkdir()
    assert [entry.path.name for entry in clear_cache(tmp_path)] == ["synthetic-v1-seed0"]


def test_clearing_takes_the_least_recently_used_first(tmp_path: Path) -> None:
    for number, name in enumerate(("c-1", "a-1", "b-1")):
        add(tmp_path, name, used=1000 + number)
    size = cache_entries(tmp_path)[0].size_bytes
    assert [entry.path.name for entry in clear_cache(tmp_path, limit_bytes=2 * size)] == ["c-1"]
    assert names(tmp_path) == ["a-1", "b-1"]
    assert clear_cache(tmp_path, limit_bytes=2 * size) == []
    assert len(clear_cache(tmp_path)) == 2
    assert names(tmp_path) == []


def test_what_is_open_is_not_cleared(tmp_path: Path) -> None:
    held = add(tmp_path, "old-1", used=1)
    add(tmp_path, "new-1", used=2)
    assert [entry.in_use for entry in cache_entries(tmp_path)] == [True, False]
    assert [entry.path.name for entry in clear_cache(tmp_path)] == ["new-1"]
    assert names(tmp_path) == ["old-1"]
    assert held["x"].sum() == 0


def test_leftovers_of_killed_builders_are_cleared(tmp_path: Path) -> None:
    (tmp_path / ".a-1.part-xyz").mkdir(parents=True)
    (tmp_path / ".a-1.part-xyz" / TENSORS).write_bytes(bytes(10))
    clear_cache(tmp_path)
    assert not (tmp_path / ".a-1.part-xyz").exists()


def test_the_synthetic_set_counts_and_goes_like_the_others(tmp_path: Path) -> None:
    synthetic = tmp_path / "synthetic-v1-seed0"
    synthetic.mkdir()
    (synthetic / "image.png").write_bytes(bytes(5000))
    os.utime(synthetic, (1, 1))
    add(tmp_path, "a-1", used=2)
    size = cache_entries(tmp_path)[-1].size_bytes
    assert clear_cache(tmp_path, limit_bytes=size + 5000) == []
    assert [entry.path for entry in clear_cache(tmp_path, limit_bytes=size + 4999)] == [synthetic]
    assert names(tmp_path) == ["a-1"]


def test_the_synthetic_set_that_is_trained_on_stays(tmp_path: Path) -> None:
    synthetic = tmp_path / "synthetic-v1-seed0"
    synthetic.mkdir()
    (synthetic / "image.png").write_bytes(bytes(5000))
    os.utime(synthetic, (1, 1))
    add(tmp_path, "a-1", used=2)
    assert [entry.path.name for entry in clear_cache(tmp_path, limit_bytes=10, keep=synthetic)] == ["a-1"]
    assert names(tmp_path) == [synthetic.name]


def test_entries_tell_what_they_hold(tmp_path: Path) -> None:
    add(tmp_path, "a-1", used=1234.0)
    (entry,) = cache_entries(tmp_path)
    assert (entry.description, entry.last_used, entry.in_use) == ("what a-1 holds", 1234.0, False)
    assert entry.size_bytes > 1000


@pytest.mark.parametrize(
    ("text", "size"),
    [("20GB", 20 * 10**9), ("1.5 mb", 1_500_000), ("2GiB", 2 * 2**30), ("7", 7), ("3k", 3000)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text, field="--limit") == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "20 apples", "1e9"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(InputError, match=r"^--limit: .* is no size"):
        parse_bytes(text, field="--limit")


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "here"))
    assert default_cache_dir() == tmp_path / "here"
    monkeypatch.delenv(CACHE_VARIABLE)
    assert default_cache_dir().name == "hvqray"


def test_the_option_comes_before_the_variable_and_either_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HVQRAY_CACHE_DIR", "~/cache")
    assert chosen_cache_dir(None) == Path.home() / "cache"
    monkeypatch.chdir(tmp_path)
    assert chosen_cache_dir(Path("mine")) == tmp_path / "mine"
    monkeypatch.delenv("HVQRAY_CACHE_DIR")
    assert chosen_cache_dir(None) is None, "each node has its own default"
