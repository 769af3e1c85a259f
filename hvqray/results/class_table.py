"""The metrics per class out of flat metric names, for every reader that shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

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
ALL_LABELS = {**METRIC_LABELS, MAD: "mAD"}


@dataclass(frozen=True)
class ClassTable:
    """One split's results; a row's values are in the order of `METRIC_LABELS`, None where undefined or not measured."""

    split: str
    rows: list[tuple[str, list[float | None]]]
    """Class name and values, by name; the mean last."""
    note: str | None
    """Over how many classes a mean was taken, where that is not all of them; mAD; the router's accuracy, where it predicts."""


def class_table(metrics: Mapping[str, float | None], split: str) -> ClassTable | None:
    """The table of `split`, or None where `metrics` has nothing of it."""
    names = class_names(metrics, split)
    if not names and f"{split}/image_auroc" not in metrics:
        return None
    rows = [(name, [metrics.get(f"{split}/{name}/{metric}") for metric in METRIC_LABELS]) for name in names]
    rows.append((MEAN, [metrics.get(f"{split}/{metric}") for metric in METRIC_LABELS]))
    return ClassTable(split, rows, _note(metrics, split, names))


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


def _note(metrics: Mapping[str, float | None], split: str, names: list[str]) -> str | None:
    means = mean_note(metrics, split)
    parts = [means] if means else []
    mad = f"{split}/{MAD}"
    if metrics.get(mad) is not None:
        over = over_classes(metrics, mad)
        without_masks = [name for name in names if is_of_image_metrics(metrics, f"{split}/{name}/")]
        of_images = f" (of image metrics alone in {', '.join(without_masks)})" if without_masks else ""
        parts.append(
            f"{ALL_LABELS[MAD]} {wording.number(metrics[mad])}{f' {over}' if over else ''}{of_images}"
        )
    accuracy = metrics.get(f"{split}/router_accuracy")
    if accuracy is not None:
        of_classes = {name: metrics.get(f"{split}/{name}/router_accuracy") for name in names}
        shown = [f"{name} {value:.3f}" for name, value in of_classes.items() if value is not None]
        parts.append(f"router accuracy {accuracy:.3f} ({', '.join(shown)})")
    return "; ".join(parts) or None


def natural_order(name: str) -> tuple[str | int, ...]:
    """`class 2` before `class 10`."""
    return tuple(int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", name))
