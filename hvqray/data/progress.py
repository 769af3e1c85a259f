"""How long work tells how far it is: a callback, drawn as a bar on a terminal and as plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

QUIET_S = 60.0
"""How long work says nothing where there is no terminal: logs of jobs should tell slow work from work that hangs."""


class Progress(Protocol):
    """Hears how far a piece of work is."""

    def __call__(self, description: str, done: int, total: int) -> None:
        """`done` of `total` steps of the work named `description`; a total of 0 means waiting for something."""
        ...


def silent(description: str, done: int, total: int) -> None:
    """A progress callback that says nothing."""


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Progress]:
    """A progress callback that draws one bar per description on stderr; without a terminal, a line as each work begins and ends, and every
    `QUIET_S` seconds in between."""
    console = console or Console(stderr=True, markup=False, emoji=False)
    if not console.is_terminal:
        yield _plain_lines(console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with RichProgress(*columns, console=console, transient=True) as bars:

        def show(description: str, done: int, total: int) -> None:
            if description not in tasks:
                tasks[description] = bars.add_task(description)
            bars.update(tasks[description], completed=done, total=total or None)
            if total and done >= total:
                del tasks[description]  # the same work may be done once more, for other features

        yield show


def _plain_lines(console: Console) -> Progress:
    begun_at: dict[str, float] = {}
    told_at: dict[str, float] = {}

    def tell(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    def show(description: str, done: int, total: int) -> None:
        now = time.monotonic()
        if description not in begun_at:
            begun_at[description] = told_at[description] = now
            tell(f"{description} ({total})" if total else description)
        if total and done >= total:
            del begun_at[description]
            tell(f"{description}: done")
        elif done and now - told_at[description] >= QUIET_S:
            told_at[description] = now
            left_s = (now - begun_at[description]) * (total - done) / done
            tell(f"{description}: {done} of {total}, about {math.ceil(left_s / 60)} min left")

    return show
