"""Progress told in lines, where there is no terminal."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from hvqray.data.progress import QUIET_S, Progress, progress_bar


@contextmanager
def told() -> Iterator[tuple[Progress, Callable[[], list[str]]]]:
    """A progress callback without a terminal, and the lines that it has told."""
    file = io.StringIO()
    with progress_bar(Console(file=file, width=80)) as progress:
        yield progress, lambda: file.getvalue().splitlines()


def test_the_same_work_done_again_is_told_again() -> None:
    with told() as (progress, lines):
        for _ in range(2):
            for done in (0, 1, 2):
                progress("computing", done, 2)
    assert lines() == ["computing (2)", "computing: done"] * 2


class Clock:
    """Stands for the time that passes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_long_work_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with told() as (progress, lines):
        for done in range(41):
            progress("computing", done, 40)
            clock.now += QUIET_S / 10
        progress("computing", 0, 40)  # once more: it begins anew
        clock.now += QUIET_S - 1
        progress("computing", 20, 40)
    assert lines() == [
        "computing (40)",
        "computing: 10 of 40, about 3 min left",
        "computing: 20 of 40, about 2 min left",
        "computing: 30 of 40, about 1 min left",
        "computing: done",
        "computing (40)",
    ]


def test_waiting_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with told() as (progress, lines):
        for _ in range(3):
            progress("waiting for the cache", 0, 0)
            clock.now += QUIET_S
    assert lines() == ["waiting for the cache"]


def test_the_bar_of_the_same_work_starts_again() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with progress_bar(console) as progress:
        progress("computing", 2, 2)
        progress("computing", 1, 3)
        console.print("here")
    assert isinstance(console.file, io.StringIO)
    assert "2/2" in console.file.getvalue()
    assert "1/3" in console.file.getvalue()
