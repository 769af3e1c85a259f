"""A table of one line a row that fits every terminal: where columns do not all fit, some are left out and none is cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

_GAP = 1


@dataclass(frozen=True)
class NarrowingColumn:
    """One column, as wide as what stands in it."""

    heading: str
    """It folds after `/` where the room is scarce."""
    cells: Sequence[str | Text]
    left_out: int | None = None
    """Of those that do not fit the column with the least number is left out first; None means never."""
    justify: Literal["left", "right"] = "right"
    least_width: int | None = None
    """Where it is set, the column takes the room that the others leave, this many characters at least, and ends in `…`."""

    @property
    def width(self) -> int:
        """The characters that it must have."""
        lines = [line for text in (self.heading, *map(str, self.cells)) for line in text.splitlines()]
        return max(map(cell_len, lines), default=0) if self.least_width is None else self.least_width


@dataclass(frozen=True)
class NarrowingTable:
    """Columns for `Console.print`, and styles of its rows."""

    columns: Sequence[NarrowingColumn]
    styles: Sequence[str | None]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        columns = self._fitting(options.max_width)
        table = Table(
            expand=any(column.least_width is not None for column in columns),
            box=None,
            pad_edge=False,
            padding=(0, _GAP, 0, 0),
            header_style="bold",
        )
        for column in columns:
            flexible = column.least_width is not None
            table.add_column(
                column.heading,
                justify=column.justify,
                no_wrap=True,
                width=None if flexible else column.width,
                ratio=1 if flexible else None,
            )
        for index, style in enumerate(self.styles):
            cells = [column.cells[index] for column in columns]
            # As Text, for a value with brackets is no markup.
            table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells), style=style)
        yield table

    def _fitting(self, width: int) -> list[NarrowingColumn]:
        columns = list(self.columns)
        if _taken(columns) > width:
            columns = [replace(column, heading=column.heading.replace("/", "/\n")) for column in columns]
        while _taken(columns) > width:
            scarce = [column for column in columns if column.left_out is not None]
            if not scarce:
                break
            columns.remove(min(scarce, key=lambda column: column.left_out or 0))
        return columns


def _taken(columns: Sequence[NarrowingColumn]) -> int:
    return sum(column.width + _GAP for column in columns) - _GAP
