"""Progress told in lines, where there is no terminal."""

from __future__ import annotations

import io

from rich.console import Console

from hvqray.data.progress import progress_bar


def test_the_same_work_done_again_is_told_again() -> None:
    console = Console(file=io.StringIO(), width=80)
    with progress_bar(console) as progress:
        for _ in range(2):
            for done in (0, 1, 2):
                progress("computing", done, 2)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == ["computing (2)", "computing: done"] * 2


def test_the_bar_of_the_same_work_starts_again() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with progress_bar(console) as progress:
        progress("computing", 2, 2)
        progress("computing", 1, 3)
        console.print("here")
    assert isinstance(console.file, io.StringIO)
    assert "2/2" in console.file.getvalue()
    assert "1/3" in console.file.getvalue()
