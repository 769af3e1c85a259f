"""Progress told in lines, where there is no terminal."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from hvqray.data.progress import QUIET_S, progress_bar


def test_the_same_work_done_again_is_told_again() -> None:
    console = Console(file=io.StringIO(), width=80)
    with progress_bar(console) as progress:
        for _ in range(2):
            for done in (0, 1, 2):
                progress("computing", done, 2)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == ["computing (2)", "computing: done"] * 2


def test_long_work_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=80)
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress_bar(console) as progress:
        for done in range(41):
            progress("computing", done, 40)
            now += QUIET_S / 10
        progress("computing", 0, 40)  # once more: it begins anew
        now += QUIET_S - 1
        progress("computing", 20, 40)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "computing (40)",
        "computing: 10 of 40, about 3 min left",
        "computing: 20 of 40, about 2 min left",
        "computing: 30 of 40, about 1 min left",
        "computing: done",
        "computing (40)",
    ]


def test_waiting_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=80)
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress_bar(console) as progress:
        for _ in range(3):
            progress("waiting for the cache", 0, 0)
            now += QUIET_S
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == ["waiting for the cache"]


def test_the_bar_of_the_same_work_starts_again() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with progress_bar(console) as progress:
        progress("computing", 2, 2)
        progress("computing", 1, 3)
        console.print("here")
    assert isinstance(console.file, io.StringIO)
    assert "2/2" in console.file.getvalue()
    assert "1/3" in console.file.getvalue()
