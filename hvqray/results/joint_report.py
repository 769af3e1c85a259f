"""What sweeps of one class each come to, on one page and in the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from hvqray.atomic import write_atomically
from hvqray.results import wording
from hvqray.results.baseline_table import baseline_tables, print_baselines
from hvqray.results.class_table import ALL_LABELS, ClassTable, class_table
from hvqray.results.in_short import cards_on_test, comparison, headline_metric, worst_class
from hvqray.results.joint import JointResult, read_joint, write_joint_metrics
from hvqray.results.page import examples, page
from hvqray.results.terminal_table import results_table, titled_table

HELD = "the best model of each class"


def report_jointly(console: Console, folder: Path) -> Path:
    """Print what the sweeps in `folder` come to, and build their report anew; returns its path."""
    joint = read_joint(folder)
    print_joint(console, joint)
    return build_joint_report(folder, joint)


def build_joint_report(folder: Path, joint: JointResult) -> Path:
    """Write `folder`/report.html and metrics.json anew, `joint` being what the sweeps in it come to, and return the report's path."""
    write_joint_metrics(folder, joint)
    baselines = baseline_tables(joint.metrics, joint.baselines)
    metric = headline_metric(joint.sweeps[0].description.goals, joint.metrics)
    html = page("joint.html.j2").render(
        joint=joint,
        class_tables=_tables(joint)[::-1],  # test first: by val the models were chosen
        baseline_tables=baselines,
        headline=cards_on_test(
            joint.metrics,
            {
                name: f"95 % {wording.number(each.low)} to {wording.number(each.high)}"
                for name, each in joint.intervals.items()
            },
        ),
        in_short=[*comparison(baselines, metric), *worst_class(joint.metrics, metric)],
        mean_line=_mean_line(joint),
        held=HELD,
        labels=ALL_LABELS,
        examples=[
            of_class
            for one in joint.sweeps
            if one.best
            for of_class in examples(one.folder / "best" / "maps")
        ],
    )
    path = folder / "report.html"
    write_atomically(path, html)
    return path


def print_joint(console: Console, joint: JointResult) -> None:
    """The best trial of each class, their seven metrics on `val` and `test`, and what they won against the baselines."""
    mark = " (selected on test)" if joint.selected_on_test else ""
    table = titled_table(f"{joint.name}: one model a class")
    for heading in ("class", "best", "sweep"):
        table.add_column(heading, no_wrap=heading == "best", overflow="fold")  # a run's id stays in one piece
    for one in joint.sweeps:
        table.add_row(one.class_name, one.best.run_id if one.best else "none", one.folder.name)
    console.print(table)
    for one in joint.sweeps:
        if one.best:
            line = f"{one.class_name}, {one.best.run_id}: {wording.one_line(one.params)}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for results in _tables(joint):
        console.print(results_table(results, f"one model a class on {results.split}{mark}"))
        if results.note:
            console.print(results.note, markup=False, highlight=False, soft_wrap=True)
    if [results.split for results in _tables(joint)] == ["val"]:
        console.print(wording.NO_TEST, style="yellow", highlight=False, soft_wrap=True)
    if mean_line := _mean_line(joint):
        console.print(mean_line, markup=False, highlight=False, soft_wrap=True)
    print_baselines(console, HELD, joint.metrics, joint.baselines, mark=mark)
    if joint.missing:
        line = f"without a completed trial: {', '.join(joint.missing)}; the means are over the others"
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _mean_line(joint: JointResult) -> str | None:
    """`95 % intervals of the means on test: image AUROC 0.9510 to 0.9880, ... (...)`; None where there are none."""
    intervals = {
        label: joint.intervals[flat]
        for metric, label in ALL_LABELS.items()
        if (flat := f"test/{metric}") in joint.intervals
    }
    if not intervals:
        return None
    parts = [
        f"{label} {wording.number(each.low)} to {wording.number(each.high)}"
        for label, each in intervals.items()
    ]
    over = dict.fromkeys(each.interval for each in intervals.values())
    return f"95 % intervals of the means on test: {', '.join(parts)} ({'; '.join(over)})"


def _tables(joint: JointResult) -> list[ClassTable]:
    return [table for split in ("val", "test") if (table := class_table(joint.metrics, split))]
