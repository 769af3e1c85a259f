"""Output that nobody takes any more does not end the work."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvqray.results.steady_console import steady_console


@pytest.fixture
def broken_pipe() -> Iterator[int]:
    """The end for writing of a pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def print_lines(stdout: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with os.fdopen(stdout, "w", closefd=False) as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        console = steady_console()
        for number in range(3):
            console.print(f"line {number}")


def test_a_reader_that_has_left_is_told_of_once(
    broken_pipe: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_lines(broken_pipe, monkeypatch)
    told = "hvqray: standard output takes no more (Broken pipe); going on without it\n"
    assert capsys.readouterr().err == told


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_so_is_a_full_disk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    print_lines(full, monkeypatch)
    os.close(full)
    assert capsys.readouterr().err.count("standard output takes no more (No space left on device)") == 1


def test_where_stderr_went_the_same_way_nothing_is_told(
    broken_pipe: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = os.dup(broken_pipe)
    with os.fdopen(both, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        print_lines(broken_pipe, monkeypatch)
        stderr.write("and what comes later goes nowhere\n")


def test_what_is_read_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    print_lines(writer, monkeypatch)
    os.close(writer)
    with os.fdopen(reader) as stream:
        assert stream.read() == "line 0\nline 1\nline 2\n"


def test_without_a_standard_output_nothing_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    steady_console().print("nowhere")
