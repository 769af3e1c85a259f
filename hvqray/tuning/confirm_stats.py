"""Means, standard deviations and 95 % intervals over the seeds of one configuration.

The interval of an image metric answers: where would the mean over seeds lie, had other test images and other seeds been
drawn? Every resample draws test images with replacement, stratified by label within each class and the same for all seeds,
since all seeds saw the same images; images of a group (`data.validation.group`) together; and seeds with replacement. The interval is that of the percentiles. With few seeds their
share in it is a little small (its variance by the factor (S - 1) / S); with one seed only images are drawn. With a few
dozen images of a class percentiles are too narrow: of 7 normal and 16 anomalous images, true AUROC .95, they hold it in four cases of five.

Pixels of one image are no independent draws, and pixel metrics are no sums over images, so resampling images would sort all
pixels again each time. For these the interval is Student's t over the seeds: it says nothing of other images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.special import stdtrit

from hvqray.metrics import IMAGE_METRICS, METRIC_NAMES
from hvqray.metrics.bootstrap import resample_images, resampled_image_metrics
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
    replicates = _replicates(scores)
    for name, values_R in replicates.items():
        if name in found and found[name].mean is not None:
            low, high = _percentiles(values_R)
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
    return {name: _percentiles(values_R) for name, values_R in _replicates(scores, others).items()}


def _percentiles(values_R: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _replicates(scores: Sequence[Scores], others: Sequence[Scores] = ()) -> dict[str, np.ndarray]:
    """Flat name to the mean over seeds on every resample, of image metrics on `test`; less that of `others`, where there are any.

    The mean over classes is left out where a class is defined for some seeds only: it would be another mean for each.
    """
    rng = np.random.default_rng(_SEED)
    share_RS, other_share_RS = _seed_shares(rng, len(scores)), _seed_shares(rng, len(others))
    by_class: dict[str, np.ndarray] = {}
    ragged = False
    for class_name, images in scores[0].items():
        resamples = resample_images(
            images.is_anomalous_n, num_resamples=NUM_RESAMPLES, rng=rng, group_n=images.group_n
        )
        if resamples is None:
            continue
        found = [resampled_image_metrics(resamples, one[class_name].score_n) for one in [*scores, *others]]
        defined = [each for each in found if each is not None]
        if len(defined) < len(found):
            ragged |= bool(defined)
            continue
        for metric in IMAGE_METRICS:
            values_RS = np.stack([each[metric] for each in defined], axis=1)
            weighted_RS = values_RS * np.concatenate([share_RS, -other_share_RS], axis=1)
            by_class[f"test/{class_name}/{metric}"] = weighted_RS.sum(axis=1)
    if ragged or not by_class:
        return by_class
    means = {
        f"test/{metric}": np.mean(
            [values for name, values in by_class.items() if name.endswith(f"/{metric}")], axis=0
        )
        for metric in IMAGE_METRICS
    }
    return by_class | means


def _seed_shares(rng: np.random.Generator, num_seeds: int) -> np.ndarray:
    """(R, S) weights of the seeds in every resample's mean; none for no seeds."""
    if not num_seeds:
        return np.empty((NUM_RESAMPLES, 0))
    return rng.multinomial(num_seeds, [1 / num_seeds] * num_seeds, size=NUM_RESAMPLES) / num_seeds
