"""The metrics per class out of flat metric names, for every reader that shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hvqray.config.metric_names import MAD, is_of_image_metrics
from hvqray.results import wording
from hvqray.training.epoch_report import MEAN, split_metric_name

METRIC_LABELS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1-max",
    "pixel_aupro": "pixel AUPRO",
}
"""The seven, which are columns."""
_MIN_MARKED = 3
ALL_LABELS = {**METRIC_LABELS, MAD: "mAD"}


@dataclass(frozen=True)
class ClassTable:
    """One split's results; a row's values are in the order of `METRIC_LABELS`, None where undefined or not measured."""

    split: str
    rows: list[tuple[str, list[float | None]]]
    """Class name and values, by name; the mean last."""
    note: str | None
    """Over how many classes a mean was taken, where that is not all of them; mAD; the router's accuracy, where it predicts."""
    mad: list[float | None] = field(default_factory=list)
    """The mAD of each row, for readers with room for it; empty where none was measured."""

    remark: str | None = None
    """The note, for readers that show `mad`."""

    def lowest(self) -> list[float | None]:
        """The lowest value of the classes in each column, that of mAD last; None in all where there are fewer than three classes, of
        which the eye finds it."""
        columns = [list(column) for column in zip(*(values for _, values in self.rows[:-1]), strict=True)]
        columns += [self.mad[:-1]]
        defined = [[value for value in column if value is not None] for column in columns]
        return [
            min(column) if len(column) >= _MIN_MARKED and min(column) < max(column) else None
            for column in defined
        ]


def class_table(metrics: Mapping[str, float | None], split: str) -> ClassTable | None:
    """The table of `split`, or None where `metrics` has nothing of it."""
    names = class_names(metrics, split)
    if not names and f"{split}/image_auroc" not in metrics:
        return None
    rows = [(name, [metrics.get(f"{split}/{name}/{metric}") for metric in METRIC_LABELS]) for name in names]
    rows.append((MEAN, [metrics.get(f"{split}/{metric}") for metric in METRIC_LABELS]))
    table = ClassTable(split, rows, _note(metrics, split, names))
    mad = [metrics.get(f"{split}/{name}/{MAD}") for name in names] + [metrics.get(f"{split}/{MAD}")]
    if all(value is None for value in mad):
        return replace(table, remark=table.note)
    return replace(table, mad=mad, remark=_note(metrics, split, names, with_mad=False))


def rows_with_mad(metrics: Mapping[str, float | None], table: ClassTable) -> list[list[str | float | None]]:
    """Class name and a value for each of `ALL_LABELS`, where width costs nothing; the mean last."""
    prefixes = [f"{table.split}/{name}/" for name, _ in table.rows[:-1]] + [f"{table.split}/"]
    return [
        [name, *values, metrics.get(f"{prefix}{MAD}")]
        for prefix, (name, values) in zip(prefixes, table.rows, strict=True)
    ]


def class_names(metrics: Mapping[str, float | None], split: str) -> list[str]:
    """The classes that `metrics` tells of in `split`, sorted."""
    found = set()
    for name in metrics:
        where, class_name, metric = split_metric_name(name)
        if where == split and class_name != MEAN and metric in METRIC_LABELS:
            found.add(class_name)
    return sorted(found, key=natural_order)


def hardest_class(metrics: Mapping[str, float | None], split: str, metric: str) -> tuple[str, float] | None:
    """The class of the lowest `metric` on `split`, and its value; None where fewer than two classes have it, or all have the same."""
    values = {
        name: value
        for name in class_names(metrics, split)
        if (value := metrics.get(f"{split}/{name}/{metric}")) is not None
    }
    if len(set(values.values())) < 2:
        return None
    name = min(values, key=values.__getitem__)
    return name, values[name]


def codebook_levels(metrics: Mapping[str, float | None]) -> list[str]:
    """The quantised levels that `metrics` tells of, in the order in which they occur: from the top down."""
    matches = (re.fullmatch(r"codebook/([^/]+)/use", name) for name in metrics)
    return [match[1] for match in matches if match]


def over_classes(metrics: Mapping[str, float | None], name: str) -> str | None:
    """`over 2 of 3 classes` of the mean `name`, such as `val/image_auroc`; None where it was taken over all of them.

    A class in which a metric is undefined does not count. Also None where `name` is no mean of the seven metrics or mAD.
    """
    split, class_name, metric = split_metric_name(name)
    if class_name != MEAN or metric not in ALL_LABELS or name not in metrics:
        return None
    names = class_names(metrics, split)
    counted = metrics.get(f"{name}.num_classes")
    if counted is None:
        told = [metrics[of] for each in names if (of := f"{split}/{each}/{metric}") in metrics]
        if not told:
            return None
        counted = sum(value is not None for value in told)
    return None if counted == len(names) else f"over {counted:.0f} of {len(names)} classes"


def mean_note(metrics: Mapping[str, float | None], split: str) -> str | None:
    """`mean image AUROC, image AP over 2 of 3 classes`, of the means that were not taken over all; None where all were."""
    labels: dict[str, list[str]] = {}
    for metric, label in METRIC_LABELS.items():
        if over := over_classes(metrics, f"{split}/{metric}"):
            labels.setdefault(over, []).append(label)
    return "; ".join(f"mean {', '.join(of)} {over}" for over, of in labels.items()) or None


def _note(
    metrics: Mapping[str, float | None], split: str, names: list[str], *, with_mad: bool = True
) -> str | None:
    means = mean_note(metrics, split)
    parts = [means] if means else []
    mad = f"{split}/{MAD}"
    if metrics.get(mad) is not None:
        over = over_classes(metrics, mad)
        without_masks = [name for name in names if is_of_image_metrics(metrics, f"{split}/{name}/")]
        of_images = f" (of image metrics alone in {', '.join(without_masks)})" if without_masks else ""
        value = f" {wording.number(metrics[mad])}" if with_mad else ""
        if with_mad or over or of_images:
            parts.append(f"{ALL_LABELS[MAD]}{value}{f' {over}' if over else ''}{of_images}")
    accuracy = metrics.get(f"{split}/router_accuracy")
    if accuracy is not None:
        of_classes = {name: metrics.get(f"{split}/{name}/router_accuracy") for name in names}
        # Of fifteen classes that are all told apart the list would be a paragraph.
        shown = [
            f"{name} {text}" for name, value in of_classes.items() if (text := _accuracy(value)) != "1.000"
        ]
        if shown and len(shown) < len(of_classes):
            shown.append("others 1.000")
        told = ", ".join(shown) or "every class"
        parts.append(f"router accuracy {accuracy:.3f} ({told})")
    return "; ".join(parts) or None


def _accuracy(value: float | None) -> str:
    return wording.number(None) if value is None else f"{value:.3f}"


def natural_order(name: str) -> tuple[str | int, ...]:
    """`class 2` before `class 10`."""
    return tuple(int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", name))
