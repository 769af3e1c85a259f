"""Sweeps of one class each, side by side: which class came to what, and what they come to together.

They lie in one folder, each in a folder of its own (`hvqray.sweep --per-class`), and every class has the best model of its own search.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from hvqray.atomic import write_atomically
from hvqray.errors import InputError
from hvqray.results.baseline_table import BaselineRecord
from hvqray.results.class_table import ALL_LABELS, natural_order
from hvqray.results.history import Metrics
from hvqray.results.joint_intervals import JointInterval, joint_intervals, more_in_the_mean
from hvqray.results.stored_trials import class_sweep_folders, read_trials
from hvqray.results.sweep_folder import BestResult, SweepDescription, read_best, read_description

METRICS_FILE = "metrics.json"
_SPLITS = ("val", "test")


@dataclass(frozen=True)
class ClassSweep:
    """The sweep of one class."""

    class_name: str
    folder: Path
    description: SweepDescription
    best: BestResult | None
    """None where no trial was completed (yet)."""
    params: dict[str, Any]
    """Of the best trial."""


@dataclass(frozen=True)
class JointResult:
    """What the sweeps come to together."""

    name: str
    sweeps: list[ClassSweep]
    """By class, in natural order."""
    metrics: Metrics
    """Flat names: of each class its best model's, the mean over the seeds where it was confirmed; their means over the classes that have one."""
    intervals: dict[str, JointInterval]
    """Flat names: of each class that was confirmed; of the means over classes that all have one, taken over the same."""
    baselines: list[BaselineRecord]
    """Those that every class with a best model was held against."""

    @property
    def missing(self) -> list[str]:
        """The classes without a best model."""
        return [one.class_name for one in self.sweeps if one.best is None]

    @property
    def selected_on_test(self) -> bool:
        return any(one.description.selected_on_test for one in self.sweeps)


def read_joint(folder: Path) -> JointResult:
    """Read the sweeps in `folder`.

    Raises:
        InputError: One of them is not of exactly one class, or two are of the same.
    """
    sweeps = sorted(map(_read, class_sweep_folders(folder)), key=lambda one: natural_order(one.class_name))
    for one, other in pairwise(sweeps):
        if one.class_name == other.class_name:
            raise InputError(
                f"{one.folder.name} and {other.folder.name} are both of the class {one.class_name!r}; move one elsewhere",
                source=str(folder),
            )
    held = {one.class_name: (one.best.held_against_baselines()[1], one.best) for one in sweeps if one.best}
    metrics = joint_metrics({name: metrics for name, (metrics, _) in held.items()})
    return JointResult(
        name=folder.resolve().name,
        sweeps=sweeps,
        metrics=metrics,
        intervals=joint_intervals(metrics, {name: best.held_spreads() for name, (_, best) in held.items()}),
        baselines=_joint_baselines({name: best.baselines for name, (_, best) in held.items()}, metrics),
    )


def write_joint_metrics(folder: Path, joint: JointResult) -> None:
    """Write `folder`/metrics.json, in the words of `best/metrics.json`."""
    content = {
        "classes": {
            one.class_name: {
                "folder": one.folder.name,
                "trial_id": one.best.trial_id if one.best else None,
                "run_id": one.best.run_id if one.best else None,
                "params": one.params,
            }
            for one in joint.sweeps
        },
        "selected_on_test": joint.selected_on_test,
        "metrics": joint.metrics,
        "intervals": {name: asdict(interval) for name, interval in joint.intervals.items()},
        "baselines": [
            {"name": each.name, "settings": each.settings, "metrics": each.metrics}
            | {"more": {name: {"low": low, "high": high} for name, (low, high) in each.more.items()}}
            for each in joint.baselines
        ],
    }
    write_atomically(folder / METRICS_FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")


def joint_metrics(by_class: Mapping[str, Mapping[str, float | None]]) -> Metrics:
    """The flat metrics of models of one class each, class name to its model's, as those of one model: with the means over the
    classes where a metric is defined, and their number."""
    joint: Metrics = {}
    for split in _SPLITS:
        for metric in ALL_LABELS:
            values = {
                name: metrics[f"{split}/{name}/{metric}"]
                for name, metrics in by_class.items()
                if f"{split}/{name}/{metric}" in metrics
            }
            if not values:
                continue
            joint |= {f"{split}/{name}/{metric}": value for name, value in values.items()}
            defined = [value for value in values.values() if value is not None]
            joint[f"{split}/{metric}"] = float(np.mean(defined)) if defined else None
            joint[f"{split}/{metric}.num_classes"] = float(len(defined))
    return joint


def _read(folder: Path) -> ClassSweep:
    description, best = read_description(folder), read_best(folder)
    classes = description.classes or []
    if len(classes) != 1:
        raise InputError(
            "is no sweep of one class, so it cannot stand beside the others; give its own folder",
            source=str(folder / "sweep.yaml"),
            field="data.classes",
        )
    params = {trial.trial_id: trial.params for trial in read_trials(folder)} if best else {}
    return ClassSweep(classes[0], folder, description, best, params.get(best.trial_id, {}) if best else {})


def _joint_baselines(by_class: Mapping[str, Sequence[BaselineRecord]], best: Metrics) -> list[BaselineRecord]:
    """A baseline that a class lacks would be a mean over others than the models', so it is left out."""
    if not by_class:
        return []
    of_class = {class_name: {each.name: each for each in records} for class_name, records in by_class.items()}
    first, *others = of_class.values()
    joint = []
    for name in first:
        if not all(name in records for records in others):
            continue
        records = {class_name: records[name] for class_name, records in of_class.items()}
        settings = [each.settings for each in records.values()]
        metrics = joint_metrics({class_name: each.metrics for class_name, each in records.items()})
        more = {
            flat: interval
            for class_name, each in records.items()
            for flat, interval in each.more.items()
            if flat.startswith(f"test/{class_name}/")
        }
        joint.append(
            BaselineRecord(
                name,
                # A class's own under its name; else what all agree in.
                {
                    key: value
                    for one in settings
                    for key, value in one.items()
                    if isinstance(value, dict) or all(each.get(key) == value for each in settings)
                },
                metrics,
                more | more_in_the_mean(best, metrics, more, records),
            )
        )
    return joint
