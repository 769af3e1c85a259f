"""What a reader of a report wants to know first: what was won against the baselines, which class is worst, what mattered, how to go on."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hvqray.config.metric_names import MAD
from hvqray.results import wording
from hvqray.results.baseline_table import BaselineTable
from hvqray.results.class_table import ALL_LABELS, class_names, class_table, hardest_class, over_classes
from hvqray.results.figures import Chart
from hvqray.training.epoch_report import MEAN, split_metric_name

_NUM_PARAMS = 3


@dataclass(frozen=True)
class Point:
    """One thing to know."""

    label: str
    text: str
    commands: list[str] = field(default_factory=list)
    """Below the text."""


def cards_on_test(
    metrics: Mapping[str, float | None], remarks: Mapping[str, str | None]
) -> list[tuple[str, str, str]]:
    """The headline figures on test: label, value and over what it is; after that what `remarks` says of its flat name."""
    cards = []
    for metric in (MAD, "image_auroc", "pixel_auroc"):
        name = f"test/{metric}"
        if name in metrics:
            remark = f"mean {over_classes(metrics, name) or 'over the classes'}"
            if more := remarks.get(name):
                remark += f"; {more}"
            cards.append((f"{ALL_LABELS[metric]} on test", wording.number(metrics[name]), remark))
    return cards


def headline_metric(goals: Iterable[str], metrics: Mapping[str, float | None]) -> str:
    """The one metric to tell results by: what was searched for first, where that is a mean over the classes; else mAD or image AUROC."""
    _, class_name, metric = split_metric_name(next(iter(goals)))
    if class_name == MEAN and metric in ALL_LABELS:
        return metric
    return MAD if any(name.endswith(f"/{MAD}") for name in metrics) else "image_auroc"


def comparison(tables: Sequence[BaselineTable], metric: str) -> list[Point]:
    """A point a baseline: by how much `metric` is more or less, and whether that is decided."""
    points = []
    for table in tables:
        gain = table.gains[-1].get(metric)
        if gain is None:
            continue
        text = f"{ALL_LABELS[metric]} {gain.told} on {table.split}"
        if gain.interval:
            low, high = gain.interval
            text += f", 95 % interval {low:+.4f} to {high:+.4f}"
            text += ": not decided, since the interval contains 0" if gain.verdict == "open" else ""
        points.append(Point(f"Against {table.baseline.label}", text))
    return points


def worst_class(metrics: Mapping[str, float | None], metric: str) -> list[Point]:
    """Which class has the lowest `metric`, on test where there is one; none where classes cannot be told apart."""
    split = "test" if class_table(metrics, "test") else "val"
    found = hardest_class(metrics, split, metric)
    if found is None:
        return []
    name, value = found
    mean = wording.number(metrics.get(f"{split}/{metric}"))
    return [
        Point(
            "Hardest class",
            f"{name}: {ALL_LABELS[metric]} {wording.number(value)} on {split}, where the mean is {mean}",
        )
    ]


def what_mattered(chart: Chart | None) -> list[Point]:
    """The parameters that explain most, by the chart of importances; why that cannot be told where it cannot."""
    if chart is None:
        return []
    if chart.reason is not None or chart.table is None:
        return [Point("What mattered", f"not known: {chart.reason}")]
    most = chart.table.rows[:_NUM_PARAMS]
    rest = len(chart.table.rows) - len(most)
    text = ", ".join(f"{name} {share}" for name, share in most)
    more = f" and {rest} more below" if rest else ""
    text += f"{more}: shares of what single parameters explain, and a hint at most of a few dozen trials"
    return [Point("What mattered", text)]


def next_steps(metrics: Mapping[str, float | None]) -> Point:
    """Commands for the best model, as they are typed in the report's folder, wherever that lies."""
    names = class_names(metrics, "val") or class_names(metrics, "test")
    of_class = f" --class {shlex.quote(names[0])}" if len(names) > 1 else ""
    return Point(
        "Use it",
        "in the folder of this report",
        [
            f"python -m hvqray.predict best IMAGES{of_class} --out predictions",
            "python -m hvqray.export best --format onnx",
        ],
    )
