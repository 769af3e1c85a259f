from __future__ import annotations

import io

import pytest
from rich.console import Console

from hvqray.results.narrowing_table import NarrowingColumn, NarrowingTable

TABLE = NarrowingTable(
    [
        NarrowingColumn("trial", ["t0000", "t0001"], justify="left"),
        NarrowingColumn(
            "parameters", ["[red]lr=0.1[/red]", "x" * 40], left_out=1, justify="left", least_width=10
        ),
        NarrowingColumn("val/loss", ["0.1234", "12.5000"]),
        NarrowingColumn("time", ["1 h", "16 min 40 s"], left_out=0),
    ],
    [None, "bold"],
)


def printed(width: int) -> list[list[str]]:
    out = io.StringIO()
    Console(file=out, width=width).print(TABLE)
    assert all(len(line) <= width for line in out.getvalue().splitlines())
    return [line.split() for line in out.getvalue().splitlines()]


def test_a_wide_terminal_shows_all() -> None:
    heading, first, second = printed(80)
    assert heading == ["trial", "parameters", "val/loss", "time"]
    assert first == ["t0000", "[red]lr=0.1[/red]", "0.1234", "1", "h"]
    assert second == ["t0001", "x" * 40, "12.5000", "16", "min", "40", "s"]


def test_room_that_lacks_is_taken_from_the_flexible_column_first() -> None:
    heading, _, second = printed(40)
    assert heading == ["trial", "parameters", "val/loss", "time"]
    assert second[1].endswith("…")
    assert second[2:] == ["12.5000", "16", "min", "40", "s"]


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (36, ["trial", "parameters", "loss", "time"]),
        (35, ["trial", "parameters", "loss"]),
        (24, ["trial", "parameters", "loss"]),
        (23, ["trial", "loss"]),
        (13, ["trial", "loss"]),
    ],
)
def test_headings_fold_then_columns_are_left_out(width: int, headings: list[str]) -> None:
    above, heading, first, second = printed(width)
    assert above == ["val/"]
    assert heading == headings
    assert (first[0], second[0]) == ("t0000", "t0001")
    assert "0.1234" in first
    assert "12.5000" in second
