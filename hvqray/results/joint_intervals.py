"""95 % intervals of means over classes that have a model each, from the classes' own.

Neither images nor seeds are shared by two classes, so that the interval of a mean over them follows from theirs, skewed as they are:
its ends lie as far from the mean as the root of the sum of their squared distances, over the number of classes (MOVER; G. Y. Zou,
A. Donner, Construction of confidence limits about effect measures, Statistics in Medicine 27, 2008).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hvqray.results.class_table import ALL_LABELS
from hvqray.results.confirmation import Interval, Spread
from hvqray.results.history import Metrics


@dataclass(frozen=True)
class JointInterval:
    """95 % interval of a metric on `test`."""

    low: float
    high: float
    interval: Interval
    """What it was taken over."""


def mean_interval(
    values: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]
) -> tuple[float, float] | None:
    """Of the mean of independent values, from the interval of each; None where one has none, and where there are no values."""
    if not values or not values.keys() <= intervals.keys():
        return None
    mean = math.fsum(values.values()) / len(values)
    below, above = (
        math.hypot(*(value - intervals[name][end] for name, value in values.items())) for end in (0, 1)
    )
    return mean - below / len(values), mean + above / len(values)


def joint_intervals(
    metrics: Metrics, by_class: Mapping[str, Mapping[str, Spread]]
) -> dict[str, JointInterval]:
    """Of the classes and of their means, those on `test`."""
    joint: dict[str, JointInterval] = {}
    for metric in ALL_LABELS:
        of_classes = {
            name: JointInterval(spread.low, spread.high, spread.interval)
            for name, spreads in by_class.items()
            if (spread := spreads.get(f"test/{name}/{metric}")) is not None
            and spread.low is not None
            and spread.high is not None
            and spread.interval is not None
        }
        joint |= {f"test/{name}/{metric}": each for name, each in of_classes.items()}
        kinds = {each.interval for each in of_classes.values()}
        of_mean = mean_interval(
            _defined(metrics, metric, by_class),
            {name: (each.low, each.high) for name, each in of_classes.items()},
        )
        if of_mean is not None and len(kinds) == 1:
            joint[f"test/{metric}"] = JointInterval(*of_mean, *kinds)
    return joint


def more_in_the_mean(
    best: Metrics,
    baseline: Metrics,
    more: Mapping[str, tuple[float, float]],
    class_names: Iterable[str],
) -> dict[str, tuple[float, float]]:
    """Intervals of what the means over the classes differ by, where both are over the same classes."""
    found = {}
    for metric in ALL_LABELS:
        own, other = _defined(best, metric, class_names), _defined(baseline, metric, class_names)
        if own.keys() != other.keys():
            continue
        interval = mean_interval(
            {name: own[name] - other[name] for name in own},
            {name: more[flat] for name in own if (flat := f"test/{name}/{metric}") in more},
        )
        if interval is not None:
            found[f"test/{metric}"] = interval
    return found


def _defined(
    metrics: Mapping[str, float | None], metric: str, class_names: Iterable[str]
) -> dict[str, float]:
    """The classes' values on `test`, where they are defined."""
    values = {name: metrics.get(f"test/{name}/{metric}") for name in class_names}
    return {name: value for name, value in values.items() if value is not None}
