"""Tables of figures on terminals of any width."""

from __future__ import annotations

import io
import re
from itertools import chain
from pathlib import Path

import pytest
import yaml
from fake_sweep import OBJECTIVE, write_fake_sweep
from rich.console import Console

from hvqray.results.class_table import METRIC_LABELS, ClassTable
from hvqray.results.summary import print_summary
from hvqray.results.terminal_table import FigureRow, FigureTable, results_table

LONG = "a class whose name has_far_more_than_22_letters"
VALUES = [0.7341, 0.00051, 0.5, 0.9876, None, 0.1234, 0.4321]
SHOWN = ["0.7341", "0.00051", "0.5000", "0.9876", "-", "0.1234", "0.4321"]


def printed(table: FigureTable, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, markup=False).print(table)
    lines = out.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert "…" not in out.getvalue()
    return lines


def results(*names: str) -> FigureTable:
    rows = [*((name, VALUES) for name in names), ("mean", VALUES)]
    return results_table(ClassTable("test", rows, None), "t0001 on test", caption="measured here")


def figures_of(lines: list[str], name: str) -> list[list[str]]:
    """What follows `name`, a list a line that begins with it."""
    return [line.split(name, 1)[1].split() for line in lines if line.strip().startswith(name)]


def test_names_fold_so_that_the_figures_stand_whole_in_80_columns() -> None:
    lines = printed(results("bolt", LONG, "[red]nut[/red]"), 80)
    assert (
        figures_of(lines, "bolt")
        == figures_of(lines, "mean")
        == figures_of(lines, "[red]nut[/red]")
        == [SHOWN]
    )
    at = next(index for index, line in enumerate(lines) if line.startswith(" a class"))
    assert lines[at].split()[-7:] == SHOWN
    folded = [lines[at][:22], *lines[at + 1 : at + 3]]
    assert "".join("".join(folded).split()) == LONG.replace(" ", ""), "all of the name is there"


@pytest.mark.parametrize(
    ("width", "parts"), [(60, [3, 4]), (40, [3, 3, 1]), (24, [1] * 7), (70, [3, 4]), (71, [7])]
)
def test_figures_that_do_not_fit_stand_below_image_metrics_first(width: int, parts: list[int]) -> None:
    lines = printed(results("bolt", LONG), width)
    found = figures_of(lines, "bolt")
    assert [len(each) for each in found] == parts
    assert [*chain(*found)] == SHOWN
    assert [*chain(*figures_of(lines, "mean"))] == SHOWN
    headings = [line.split() for line in lines if line.split() and set(line.split()) <= {"image", "pixel"}]
    assert [*chain(*headings)] == [label.split()[0] for label in METRIC_LABELS.values()]
    text = "\n".join(lines)
    assert (text.count("t0001 on test"), text.count("measured here")) == (1, 1)


def test_the_mean_stands_apart_and_cells_of_several_lines_are_whole() -> None:
    rows = [FigureRow("bolt", ["0.5000 ± 0.1000\n0.4000 to 0.6000"]), FigureRow("mean", ["0.5000"])]
    lines = printed(FigureTable("t", "class", ["pixel AUROC"], rows, mean_is_last=True), 30)
    assert [line.split()[-3:] for line in lines if "±" in line or "to" in line] == [
        ["0.5000", "±", "0.1000"],
        ["0.4000", "to", "0.6000"],
    ]
    at = next(index for index, line in enumerate(lines) if "mean" in line)
    assert not lines[at - 1].strip()


@pytest.mark.parametrize("width", [60, 40])
def test_the_trials_of_several_objectives_are_whole(tmp_path: Path, width: int) -> None:
    folder = write_fake_sweep(tmp_path / "one", num_trials=3)
    sweep = yaml.safe_load((folder / "sweep.yaml").read_text())
    others = ("val/pixel_aupro", "val/pixel_ap")
    sweep["metric"] = [sweep["metric"], *({"name": name, "goal": "maximize"} for name in others)]
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    out = io.StringIO()
    print_summary(Console(file=out, width=width), folder)
    trials = out.getvalue().partition("t0000: ")[0]
    assert "…" not in out.getvalue()
    cells = " ".join(re.findall(r"^ t0002 (.*)$", trials, flags=re.MULTILINE)).split()
    assert cells[0] == "COMPLETE"
    assert len([cell for cell in cells if re.fullmatch(r"0\.\d{4}", cell)]) == 3
    for name in (OBJECTIVE, *others):
        assert name in trials
