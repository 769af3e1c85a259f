"""Means, standard deviations and 95 % intervals over the seeds of one configuration.

The interval of an image metric answers: where would the mean over seeds lie, had other test images and other seeds been
drawn? Every resample draws test images with replacement, stratified by label within each class and the same for all seeds,
since all seeds saw the same images; images of a group (`data.validation.group`) together; and seeds with replacement. Each time one of
what is drawn from is left out (`metrics.bootstrap`). The interval is that of the percentiles 2.5 and 97.5, each drawn away from the
mean as far as Student's t lies beyond the normal distribution, for the degrees of freedom of images and seeds together:
percentiles alone are too narrow for a few dozen images (T. Hesterberg, What Teachers Should Know About the Bootstrap, The American
Statistician 69(4), 2015). His percentiles further out would not do for two or three seeds, whose few resamples end before them.
Where all images are ranked perfectly every resample is perfect, and no bootstrap gives an interval.

Pixels of one image are no independent draws, and pixel metrics are no sums over images, so resampling images would sort all
pixels again each time. For these the interval is Student's t over the seeds: it says nothing of other images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri, stdtrit

from hvqray.metrics import IMAGE_METRICS, METRIC_NAMES
from hvqray.metrics.bootstrap import bootknife, resample_images, resampled_image_metrics
from hvqray.results.confirmation import Interval, Spread
from hvqray.results.history import Metrics
from hvqray.training.measure import ImageScores

NUM_RESAMPLES = 1000
LEVEL = 0.95
_SEED = 0
"""Of the resampling, so that the same runs always give the same intervals."""

Scores = Mapping[str, ImageScores]
"""Class name to the image scores on `test`."""


def spreads(metrics: Sequence[Metrics], scores: Sequence[Scores]) -> dict[str, Spread]:
    """Flat name to spread, of the seven metrics per class and their means, on `val` and on `test`.

    Args:
        metrics: flat metrics of each seed's run, on both splits.
        scores: image scores of each seed's run on `test`, of the same images.
    """
    names = [name for name in metrics[0] if _is_measured(name)]
    found = {name: _spread([one.get(name) for one in metrics]) for name in names}
    for name, spread in found.items():
        if name.startswith("test/") and name.rpartition("/")[2] not in IMAGE_METRICS:
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
    return split in ("val", "test") and rest.rpartition("/")[2] in METRIC_NAMES


def _spread(values: list[float | None]) -> Spread:
    defined = [value for value in values if value is not None]
    if len(defined) < len(values):
        return Spread(values, mean=None, std=None)
    std = float(np.std(defined, ddof=1)) if len(defined) > 1 else None
    return Spread(values, mean=float(np.mean(defined)), std=std)


def _with_t_interval(spread: Spread) -> Spread:
    if spread.mean is None or spread.std is None:
        return spread
    num_seeds = len(spread.values)
    half = float(stdtrit(num_seeds - 1, (1 + LEVEL) / 2)) * spread.std / num_seeds**0.5
    return replace(spread, low=spread.mean - half, high=spread.mean + half, interval="t over seeds")


def differences(scores: Sequence[Scores], others: Sequence[Scores]) -> dict[str, tuple[float, float]]:
    """Flat name to the 95 % interval of what the mean of `scores` has more than that of `others`, of image metrics on `test`.

    Both are of the same images, and every resample draws the same ones for both: what makes an image hard for all cancels out.
    Where a metric is undefined on either side there is none.

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
class _Replicates:
    """A metric on every resample, and how its variance falls apart."""

    values_R: np.ndarray
    parts: list[tuple[float, int]]
    """Variance and degrees of freedom of each source that is independent of the others."""

    def interval(self, lowest: float) -> tuple[float, float]:
        """Percentiles stretched to Student's t, with degrees of freedom after Welch and Satterthwaite; within `lowest` to 1."""
        squares = sum(variance**2 / degrees for variance, degrees in self.parts)
        total = sum(variance for variance, _ in self.parts)
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(self.values_R, [tail, 1 - tail])
        # Not the median: of two seeds it is one of them.
        centre = float(self.values_R.mean())
        stretch = float(stdtrit(total**2 / squares, tail) / ndtri(tail)) if squares > 0 else 1.0
        return (
            max(lowest, min(float(low), centre - stretch * (centre - float(low)))),
            min(1.0, max(float(high), centre + stretch * (float(high) - centre))),
        )


def _intervals(scores: Sequence[Scores], others: Sequence[Scores] = ()) -> dict[str, tuple[float, float]]:
    """Flat name to interval of the mean over seeds, of image metrics on `test`; of its difference to that of `others`, where there are any.

    The mean over classes is left out where a class is defined for some seeds only: it would be another mean for each.
    """
    rng = np.random.default_rng(_SEED)
    lowest = -1.0 if others else 0.0
    sides = [(side, _seed_shares(rng, len(side)), sign) for side, sign in ((scores, 1), (others, -1)) if side]
    by_class: dict[str, dict[str, _Replicates]] = {metric: {} for metric in IMAGE_METRICS}
    of_seeds: dict[str, list[list[np.ndarray]]] = {metric: [] for metric in IMAGE_METRICS}
    ragged = False
    for class_name, images in scores[0].items():
        resamples = resample_images(
            images.is_anomalous_n, num_resamples=NUM_RESAMPLES, rng=rng, group_n=images.group_n
        )
        if resamples is None:
            continue
        found = [
            [resampled_image_metrics(resamples, one[class_name].score_n) for one in side]
            for side, _, _ in sides
        ]
        defined = [[each for each in side if each is not None] for side in found]
        if defined != found:
            ragged |= any(defined)
            continue
        for metric in IMAGE_METRICS:
            values = [np.stack([each[metric] for each in side], axis=1) for side in defined]
            total_R = sum(
                sign * (values_RS * share_RS).sum(axis=1)
                for values_RS, (_, share_RS, sign) in zip(values, sides, strict=True)
            )
            even_R = sum(
                sign * values_RS.mean(axis=1) for values_RS, (_, _, sign) in zip(values, sides, strict=True)
            )
            of_seeds[metric].append([values_RS.mean(axis=0) for values_RS in values])
            variance = float(np.var(even_R))
            by_class[metric][class_name] = _Replicates(
                np.asarray(total_R),
                [(variance, resamples.degrees_of_freedom), *_seed_parts(of_seeds[metric][-1])],
            )
    intervals = {
        f"test/{class_name}/{metric}": replicates.interval(lowest)
        for metric, classes in by_class.items()
        for class_name, replicates in classes.items()
    }
    if ragged or not intervals:
        return intervals
    for metric, classes in by_class.items():
        values_R = np.mean([each.values_R for each in classes.values()], axis=0)
        of_images = [(each.parts[0][0] / len(classes) ** 2, each.parts[0][1]) for each in classes.values()]
        seeds = [np.mean(of_side, axis=0) for of_side in zip(*of_seeds[metric], strict=True)]
        intervals[f"test/{metric}"] = _Replicates(values_R, [*of_images, *_seed_parts(seeds)]).interval(
            lowest
        )
    return intervals


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
