"""Results per class as a table for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from hvqray.results import wording
from hvqray.results.class_table import METRIC_LABELS, ClassTable


def titled_table(title: str, *, caption: str | None = None) -> Table:
    """An empty table in the one look that all commands share; it is narrow, for 80 columns must hold seven metrics."""
    return Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )


def results_table(results: ClassTable, title: str, *, caption: str | None = None) -> Table:
    """The seven metrics a class, the mean in bold below them."""
    table = titled_table(title, caption=caption)
    table.add_column("class", no_wrap=True)
    for label in METRIC_LABELS.values():
        table.add_column(label, justify="right")
    for class_name, values in results.rows[:-1]:
        table.add_row(Text(class_name), *map(wording.number, values))
    table.add_section()
    mean, values = results.rows[-1]
    table.add_row(mean, *map(wording.number, values), style="bold")
    return table
