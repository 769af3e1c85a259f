"""The cache folder: one build, no half entries, clearing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from hvqray.data.arrow_store import Column, TensorWriter
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


def test_two_processes_share_one_build(tmp_path: Path) -> None:
    first = start_builder(tmp_path)
    wait_for(tmp_path / "builds.txt")
    second = start_builder(tmp_path)
    assert second.stdout is not None
    assert second.stdout.readline().startswith(f"waiting for process {first.pid} on ")
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert (tmp_path / "builds.txt").read_text() == "build\n"
    assert [output.splitlines()[-1] for output in outputs] == ["(3, 4) 12"] * 2


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
