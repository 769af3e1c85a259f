"""Means, standard deviations and 95 % intervals over the seeds of one configuration.

The interval of a metric answers: where would the mean over seeds lie, had other test images and other seeds been
drawn? Every resample draws test images with replacement, stratified by label within each class and the same for all seeds,
since all seeds saw the same images; images of a group (`data.validation.group`) together; and seeds with replacement. Each time one of
what is drawn from is left out (`metrics.bootstrap`). The interval is that of the percentiles 2.5 and 97.5, each drawn away from the
mean as far as Student's t lies beyond the normal distribution, for the degrees of freedom of images and seeds together:
percentiles alone are too narrow for a few dozen images (T. Hesterberg, What Teachers Should Know About the Bootstrap, The American
Statistician 69(4), 2015). His percentiles further out would not do for two or three seeds, whose few resamples end before them.
Where images are ranked perfectly, or nearly so, what the resamples lack is made up for by one image more of each label.

A resample of a class's images has all seven metrics, and their mean is its mAD.

Pixels of one image are no independent draws: whole images are drawn for pixel metrics too, all pixels of each as often as it
is, by their histograms (`metrics.pixel_histograms`). Runs measured by a version that left none have Student's t over the
seeds instead, which says nothing of other images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri, stdtrit

from hvqray.config.metric_names import is_of_image_metrics
from hvqray.metrics import IMAGE_METRICS, MAD, METRIC_NAMES, PIXEL_METRICS
from hvqray.metrics.bootstrap import (
    Replicates,
    Resamples,
    bootknife,
    resample_images,
    resampled_image_metrics,
)
from hvqray.metrics.pixel_histograms import resampled_pixel_metrics
from hvqray.results.confirmation import Interval, Spread
from hvqray.results.history import Metrics
from hvqray.training.measure import ImageScores

MEASURED = (*METRIC_NAMES, MAD)
NUM_RESAMPLES = 1000
LEVEL = 0.95
_SEED = 0
"""Of the resampling, so that the same runs always give the same intervals."""
_NONE = 1e-20
"""A variance so small is rounding."""

Scores = Mapping[str, ImageScores]
"""Class name to what was measured of its images of `test`."""


def spreads(metrics: Sequence[Metrics], scores: Sequence[Scores]) -> dict[str, Spread]:
    """Flat name to spread, of the seven metrics and mAD per class and their means, on `val` and on `test`.

    Args:
        metrics: flat metrics of each seed's run, on both splits.
        scores: what was measured of the images of `test`, the same ones, by each seed's run.
    """
    names = [name for name in metrics[0] if _is_measured(name)]
    found = {name: _spread([one.get(name) for one in metrics]) for name in names}
    for name, spread in found.items():
        if name.startswith("test/") and name.rpartition("/")[2] in (*PIXEL_METRICS, MAD):
            found[name] = _with_t_interval(spread)
    for name, (low, high) in _intervals(scores).items():
        if name in found and found[name].mean is not None:
            over: Interval = (
                "bootstrap over images and seeds" if len(metrics) > 1 else "bootstrap over images"
            )
            found[name] = replace(found[name], low=low, high=high, interval=over)
    return found


def _is_measured(name: str) -> bool:
    split, _, rest = name.partition("/")
    return split in ("val", "test") and rest.rpartition("/")[2] in MEASURED


def _spread(values: list[float | None]) -> Spread:
    defined = [value for value in values if value is not None]
    if len(defined) < len(values):
        return Spread(values, mean=None, std=None)
    std = float(np.std(defined, ddof=1)) if len(defined) > 1 else None
    return Spread(values, mean=float(np.mean(defined)), std=std)


def _with_t_interval(spread: Spread) -> Spread:
    if spread.mean is None or not spread.std:  # equal values say nothing of other seeds
        return spread
    num_seeds = len(spread.values)
    half = float(stdtrit(num_seeds - 1, (1 + LEVEL) / 2)) * spread.std / num_seeds**0.5
    return replace(spread, low=spread.mean - half, high=spread.mean + half, interval="t over seeds")


def differences(scores: Sequence[Scores], others: Sequence[Scores]) -> dict[str, tuple[float, float]]:
    """Flat name to the 95 % interval of what the mean of `scores` has more than that of `others`, on `test`.

    Both are of the same images, and every resample draws the same ones for both: what makes an image hard for all cancels out.
    Where a metric is undefined on either side there is none, nor of a pixel metric where one has no histograms.

    Raises:
        ValueError: they are not of the same images.
    """
    for one in others:
        if one.keys() != scores[0].keys() or any(
            not np.array_equal(one[name].is_anomalous_n, images.is_anomalous_n)
            for name, images in scores[0].items()
        ):
            raise ValueError("image scores of other images")
    return _intervals(scores, others)


@dataclass(frozen=True)
class _Combined:
    """A metric over seeds, or what it differs by, on every resample; and how its variance falls apart."""

    values_R: np.ndarray
    of_images: list[tuple[float, float]]
    """Variance and degrees of freedom of the images of each class."""
    of_seeds: list[np.ndarray]
    """Each side's values a seed, (S,)."""

    def interval(self, *, is_difference: bool) -> tuple[float, float] | None:
        """Percentiles stretched to Student's t, with degrees of freedom after Welch and Satterthwaite; within what the metric can be.

        None where a resample is undefined, or the resamples of a class do not differ: then they cannot say how far off it is.
        Of a difference, classes in which two models rank every image alike say that there they are wrong together: it is
        None only where that is so in all.
        """
        variances = [variance for variance, _ in self.of_images]
        telling = max(variances) if is_difference else min(variances)
        if not np.isfinite(self.values_R).all() or telling < _NONE:
            return None
        lowest = -1.0 if is_difference else 0.0
        parts = [*self.of_images, *_seed_parts(self.of_seeds)]
        squares = sum(variance**2 / degrees for variance, degrees in parts)
        total = sum(variance for variance, _ in parts)
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(self.values_R, [tail, 1 - tail])
        # Not the median: of two seeds it is one of them.
        centre = float(self.values_R.mean())
        stretch = float(stdtrit(total**2 / squares, tail) / ndtri(tail))
        return (
            max(lowest, min(float(low), centre - stretch * (centre - float(low)))),
            min(1.0, max(float(high), centre + stretch * (float(high) - centre))),
        )


@dataclass(frozen=True)
class _Side:
    """Runs of which the mean is taken, or is subtracted."""

    scores: Sequence[Scores]
    share_RS: np.ndarray
    """Weights of the seeds in every resample's mean."""
    sign: int


def _intervals(scores: Sequence[Scores], others: Sequence[Scores] = ()) -> dict[str, tuple[float, float]]:
    """Flat name to interval of the mean over seeds on `test`; of its difference to that of `others`, where there are any.

    The mean over classes is left out where a class is defined for some runs only: it would be another mean for each.
    """
    rng = np.random.default_rng(_SEED)
    sides = [
        _Side(runs, _seed_shares(rng, len(runs)), sign) for runs, sign in ((scores, 1), (others, -1)) if runs
    ]
    by_class: dict[str, dict[str, _Combined]] = {metric: {} for metric in MEASURED}
    ragged: set[str] = set()
    for class_name, images in scores[0].items():
        resamples = resample_images(
            images.is_anomalous_n, num_resamples=NUM_RESAMPLES, rng=rng, group_n=images.group_n
        )
        found = [[_replicates(resamples, run[class_name]) for run in side.scores] for side in sides]
        for metric, classes in by_class.items():
            defined = [[run[metric] for run in runs if metric in run] for runs in found]
            if all(map(len, defined)) and sum(map(len, defined)) == sum(map(len, found)):
                classes[class_name] = _combined(sides, defined)
            elif any(defined):
                ragged.add(metric)
    combined = {
        f"test/{class_name}/{metric}": each
        for metric, classes in by_class.items()
        for class_name, each in classes.items()
    }
    combined |= {
        f"test/{metric}": _mean_over_classes(list(classes.values()))
        for metric, classes in by_class.items()
        if classes and metric not in ragged
    }
    found_intervals = {name: each.interval(is_difference=bool(others)) for name, each in combined.items()}
    return {name: interval for name, interval in found_intervals.items() if interval is not None}


def _replicates(resamples: Resamples, images: ImageScores) -> dict[str, Replicates]:
    """Of each metric that is defined; of pixel metrics, and of mAD, where there are histograms."""
    found = resampled_image_metrics(resamples, images.score_n) or {}
    histograms = images.pixels.read() if images.pixels else None
    if images.pixels and histograms:
        found |= resampled_pixel_metrics(resamples, histograms, images.pixels.exact)
    if images.pixels and images.pixels.exact.get(MAD) is not None:
        names = IMAGE_METRICS if is_of_image_metrics(images.pixels.exact) else METRIC_NAMES
        if found.keys() >= set(names):
            found[MAD] = _mean_of_metrics([found[name] for name in names])
    return found


def _mean_of_metrics(metrics: Sequence[Replicates]) -> Replicates:
    """As certain as the least certain of them."""
    return Replicates(
        np.mean([each.values_R for each in metrics], axis=0), min(each.degrees_of_freedom for each in metrics)
    )


def _combined(sides: Sequence[_Side], replicates: Sequence[Sequence[Replicates]]) -> _Combined:
    """One class's replicates of one metric, a list a side and in it one a seed."""
    values = [np.stack([each.values_R for each in runs], axis=1) for runs in replicates]
    total_R, even_R = (
        sum(
            side.sign * (values_RS * share_RS).sum(axis=1)
            for side, values_RS, share_RS in zip(sides, values, shares, strict=True)
        )
        for shares in (
            [side.share_RS for side in sides],
            [np.full(values_RS.shape, 1 / values_RS.shape[1]) for values_RS in values],
        )
    )
    degrees_of_freedom = min(each.degrees_of_freedom for runs in replicates for each in runs)
    return _Combined(
        np.asarray(total_R),
        [(float(np.var(even_R)), degrees_of_freedom)],
        [values_RS.mean(axis=0) for values_RS in values],
    )


def _mean_over_classes(classes: Sequence[_Combined]) -> _Combined:
    """Images of different classes are drawn independently of each other, seeds alike."""
    return _Combined(
        np.mean([each.values_R for each in classes], axis=0),
        [(variance / len(classes) ** 2, df) for each in classes for variance, df in each.of_images],
        [np.mean(of_side, axis=0) for of_side in zip(*(each.of_seeds for each in classes), strict=True)],
    )


def _seed_parts(sides: Sequence[np.ndarray]) -> list[tuple[float, int]]:
    """Variance of each side's mean over its seeds, with degrees of freedom; none for a single seed."""
    return [
        (float(np.var(values_S, ddof=1)) / len(values_S), len(values_S) - 1)
        for values_S in sides
        if len(values_S) > 1
    ]


def _seed_shares(rng: np.random.Generator, num_seeds: int) -> np.ndarray:
    """(R, S) weights of the seeds in every resample's mean."""
    return bootknife(num_seeds, num_resamples=NUM_RESAMPLES, rng=rng) / num_seeds
