"""Tables for the terminal, in which no figure is ever cut; among them the results per class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from hvqray.results import wording
from hvqray.results.class_table import METRIC_LABELS, ClassTable

_NAME_WIDTH = 12
"""Characters that names may be folded to before the figures are parted instead."""
_PADDING = 1
_DIVIDER = 1
_EDGES = 2


def titled_table(title: str | None, *, caption: str | None = None) -> Table:
    """An empty table in the one look that all commands share; it is narrow, for 80 columns must hold seven metrics."""
    return Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, _PADDING, 0, 0),
    )


@dataclass(frozen=True)
class FigureRow:
    """What one class, or one trial, came to; cells may have several lines."""

    name: str
    cells: Sequence[str | Text]
    bold: bool = False


@dataclass(frozen=True)
class FigureTable:
    """Figures a class, or a trial, for `Console.print`.

    No figure is cut: names fold, and figures for which that does not make room stand in further tables below, each with
    the names. Columns whose headings begin with the same word stay together where they fit.
    """

    title: str
    heading: str
    """Of the names."""
    labels: Sequence[str | Text]
    """The headings of the figures."""
    rows: Sequence[FigureRow]
    mean_is_last: bool = False
    """Whether the last row is the mean of the others: it is bold, below a line."""
    caption: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        longest = max(_width([self.heading]), _width([row.name for row in self.rows]))
        widths = [
            max(_width(str(label).split()), _width([str(row.cells[index]) for row in self.rows]))
            for index, label in enumerate(self.labels)
        ]
        room = options.max_width - _EDGES - _PADDING
        parts = self._parts(widths, room - min(longest, _NAME_WIDTH))
        for part in parts:
            left = room - _taken(widths, part)
            yield self._table(
                part,
                widths,
                name_width=max(1, min(longest, left)),
                title=self.title if part is parts[0] else None,
                caption=self.caption if part is parts[-1] else None,
            )

    def _parts(self, widths: Sequence[int], room: int) -> list[list[int]]:
        """The positions of the columns of each table, whose columns take `room` characters at most (but at least one stands in each)."""
        parts: list[list[int]] = [[]]
        for _, group in groupby(range(len(widths)), key=lambda index: str(self.labels[index]).split()[0]):
            together = list(group)
            if parts[-1] and _taken(widths, parts[-1] + together) > room:
                parts.append([])
            for index in together:
                if parts[-1] and _taken(widths, [*parts[-1], index]) > room:
                    parts.append([])
                parts[-1].append(index)
        return parts

    def _table(
        self,
        part: Sequence[int],
        widths: Sequence[int],
        *,
        name_width: int,
        title: str | None,
        caption: str | None,
    ) -> Table:
        table = titled_table(title, caption=caption)
        table.add_column(self.heading, width=name_width, overflow="fold")
        for index in part:
            table.add_column(self.labels[index], width=widths[index], justify="right", overflow="fold")
        for row in self.rows:
            is_mean = self.mean_is_last and row is self.rows[-1]
            if is_mean:
                table.add_section()
            # As Text, for a name with brackets is no markup.
            cells = [
                cell if isinstance(cell, Text) else Text(cell)
                for cell in (row.cells[index] for index in part)
            ]
            table.add_row(Text(row.name), *cells, style="bold" if is_mean or row.bold else None)
        return table


def results_table(results: ClassTable, title: str, *, caption: str | None = None) -> FigureTable:
    """The seven metrics a class, the mean in bold below them."""
    rows = [FigureRow(name, [*map(wording.number, values)]) for name, values in results.rows]
    return FigureTable(title, "class", [*METRIC_LABELS.values()], rows, mean_is_last=True, caption=caption)


def _width(texts: Sequence[str]) -> int:
    """Of the longest line in `texts`, in characters of the terminal."""
    return max((cell_len(line) for text in texts for line in text.splitlines()), default=0)


def _taken(widths: Sequence[int], part: Sequence[int]) -> int:
    return sum(widths[index] + _PADDING + _DIVIDER for index in part)
