"""Bootstrap resamples of images, and replicates of the image metrics: how much they owe to the very images that were tested.

Images are resampled with replacement within each label (normal, anomalous), so that a resample has as many of each as
the test set; and each time with one of them left out, without which the replicates of a few images vary too little (bootknife). Images that belong together, such as crops of one photograph, are no independent draws: they are drawn
together, as many groups with one label, the other and both as the test set has. A resample is a vector of counts, and
all metrics follow from the counts summed up in the order of the scores: no resample is ever sorted.

Sources: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), sections 8.3 (two samples) and 13.3 (percentile
intervals); T. Hesterberg, Unbiasing the bootstrap: bootknife sampling versus smoothing (2004); L. Kish, Survey Sampling
(1965; effective sample size).

Legend: n images of one class, G groups of them, R resamples, T distinct scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from hvqray.metrics.per_class import IMAGE_METRICS


@dataclass(frozen=True)
class Resamples:
    """How often each image is in each resample."""

    counts_Rn: Int[np.ndarray, "R n"]
    is_anomalous_n: Bool[np.ndarray, " n"]
    group_n: Int[np.ndarray, " n"]
    """Images of the same number are drawn together."""

    def degrees_of_freedom(self, *weights: Real[np.ndarray, " n"]) -> float:
        """Effective number of groups, less one and at least 1, for what the images weigh; the smaller one of several.

        Of equal weights that is the number of groups. A group that weighs more counts for less than its weight, since
        what it has drawn is drawn once: (sum w)^2 / sum w^2 (Kish).
        """
        of_groups = [np.bincount(self.group_n, weight_n) for weight_n in weights]
        return max(min(float(w_G.sum() ** 2 / (w_G**2).sum()) for w_G in of_groups) - 1, 1.0)


@dataclass(frozen=True)
class Replicates:
    """One metric on every resample."""

    values_R: Float[np.ndarray, " R"]
    degrees_of_freedom: float
    """Of the images that it rests on."""


def resample_images(
    is_anomalous_n: Bool[np.ndarray, " n"],
    *,
    num_resamples: int,
    rng: np.random.Generator,
    group_n: Int[np.ndarray, " n"] | None = None,
) -> Resamples:
    """Draw resamples, stratified by label: where the images have both, every resample has.

    `group_n` numbers the groups 0, 1, ... of images that are drawn together; None means that each is by itself.
    """
    if group_n is None:
        group_n = np.arange(len(is_anomalous_n))
    num_groups = int(group_n.max()) + 1
    has_label_2G = np.array(
        [np.bincount(group_n[is_anomalous_n == label], minlength=num_groups) > 0 for label in (True, False)]
    )
    counts_RG = np.zeros((num_resamples, num_groups), dtype=np.int64)
    for anomalous, normal in ((True, False), (False, True), (True, True)):
        members = np.flatnonzero((has_label_2G[0] == anomalous) & (has_label_2G[1] == normal))
        if len(members):
            counts_RG[:, members] = bootknife(len(members), num_resamples=num_resamples, rng=rng)
    return Resamples(counts_RG[:, group_n], is_anomalous_n, group_n)


def bootknife(number: int, *, num_resamples: int, rng: np.random.Generator) -> Int[np.ndarray, "R number"]:
    """How often each of `number` things is in each resample of as many; one of them, another each time, is in none. A single one always is."""
    if number == 1:
        return np.ones((num_resamples, 1), dtype=np.int64)
    drawn_Rn = rng.integers(number - 1, size=(num_resamples, number))
    drawn_Rn += drawn_Rn >= rng.integers(number, size=(num_resamples, 1))
    drawn_Rn += np.arange(num_resamples)[:, None] * number
    return np.bincount(drawn_Rn.ravel(), minlength=num_resamples * number).reshape(num_resamples, number)


def resampled_image_metrics(
    resamples: Resamples, scores_n: Float[np.ndarray, " n"]
) -> dict[str, Replicates] | None:
    """Each of `IMAGE_METRICS` on every resample, as `image_metrics` defines them; None where these are not: one label has no image,
    or a score is not finite."""
    is_anomalous_n = resamples.is_anomalous_n
    if is_anomalous_n.all() or not is_anomalous_n.any() or not np.isfinite(scores_n).all():
        return None
    order = np.argsort(-scores_n, kind="stable")
    descending = scores_n[order]
    ends_T = np.append(np.flatnonzero(np.diff(descending)), len(descending) - 1)
    counts_Rn, sorted_n = resamples.counts_Rn[:, order], is_anomalous_n[order]
    # Called anomalous at each threshold, rightly and wrongly; equal scores are called together.
    true_RT = (counts_Rn * sorted_n).cumsum(axis=1)[:, ends_T]
    false_RT = (counts_Rn * ~sorted_n).cumsum(axis=1)[:, ends_T]
    positives_R, negatives_R = true_RT[:, -1], false_RT[:, -1]
    gained_RT = np.diff(true_RT, axis=1, prepend=0)
    called_RT = true_RT + false_RT
    # Pairs in the right order: a new negative lies below the positives called before it, and beside its equals.
    twice_right_RT = np.diff(false_RT, axis=1, prepend=0) * (2 * true_RT - gained_RT)
    precision_RT = true_RT / np.maximum(called_RT, 1)  # nothing called: nothing gained either
    values = (
        twice_right_RT.sum(axis=1) / (2 * positives_R * negatives_R),
        (gained_RT * precision_RT).sum(axis=1) / positives_R,
        (2 * true_RT / (called_RT + positives_R[:, None])).max(axis=1),
    )
    degrees_of_freedom = resamples.degrees_of_freedom(is_anomalous_n, ~is_anomalous_n)
    return {
        metric: Replicates(values_R, degrees_of_freedom)
        for metric, values_R in zip(IMAGE_METRICS, values, strict=True)
    }
