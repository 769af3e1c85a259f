"""How long work tells how far it is: a callback, drawn as a bar on a terminal and as plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress(Protocol):
    """Hears how far a piece of work is."""

    def __call__(self, description: str, done: int, total: int) -> None:
        """`done` of `total` steps of the work named `description`; a total of 0 means waiting for something."""
        ...


def silent(description: str, done: int, total: int) -> None:
    """A progress callback that says nothing."""


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Progress]:
    """A progress callback that draws one bar per description on stderr; without a terminal, a line as each work begins and ends."""
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
    begun: set[str] = set()

    def show(description: str, done: int, total: int) -> None:
        if description not in begun:
            begun.add(description)
            console.print(
                f"{description} ({total})" if total else description, highlight=False, soft_wrap=True
            )
        if total and done >= total:
            begun.discard(description)
            console.print(f"{description}: done", highlight=False, soft_wrap=True)

    return show
