"""Bootstrap resamples of images, and replicates of the image metrics: how much they owe to the very images that were tested.

Images are resampled with replacement within each label (normal, anomalous), so that a resample has as many of each as
the test set; and each time with one of them left out, without which the replicates of a few images vary too little
(bootknife). Images that belong together, such as crops of one photograph, are no independent draws: they are drawn
together, as many groups with one label, the other and both as the test set has. A resample is a vector of counts, and
all metrics follow from the counts summed up in the order of the scores: no resample is ever sorted.

A resample shows no fault that the test set does not: where all images are ranked perfectly every resample is. So for the image
metrics each label has one image more, with the weight of an image in the Bayesian bootstrap, Exp(1). Every resample draws
an image of the other label for it. Where that is of the half nearer to the label, the one more scores like it and is a fault, and else
it scores like its own label and changes nothing: half a fault is what Jeffreys's prior adds to those seen. Two models share it
as far as they rank images alike. Replicates are centred on the metric of all images, so it widens and does not shift them.

Sources: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), sections 8.3 (two samples) and 13.3 (percentile
intervals); T. Hesterberg, Unbiasing the bootstrap: bootknife sampling versus smoothing (2004); D. B. Rubin, The Bayesian
Bootstrap, The Annals of Statistics 9(1), 1981; L. D. Brown, T. T. Cai, A. DasGupta, Interval Estimation for a Binomial
Proportion, Statistical Science 16(2), 2001 (Jeffreys interval); L. Kish, Survey Sampling (1965; effective sample size).

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
    one_more_Rn: Float[np.ndarray, "R n"]
    """The weights of those that each label has more, on the images of the other label that were drawn for them."""

    def degrees_of_freedom(self, *weights: Real[np.ndarray, " n"]) -> float:
        """Effective number of groups, less one and at least 1, for what the images weigh; the smaller one of several.

        Of equal weights that is the number of groups. A group that weighs more counts for less than its weight, since
        what it has drawn is drawn once.
        """
        return max(
            min(_effective_number(np.bincount(self.group_n, weight_n)) for weight_n in weights) - 1, 1.0
        )


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
    one_more_Rn = np.zeros((num_resamples, len(group_n)))
    if has_label_2G.any(axis=1).all():
        own_rng = rng.spawn(1)[0]  # what else is drawn stays as it is without it
        for label_n in (is_anomalous_n, ~is_anomalous_n):
            one_more_Rn += _one_more(label_n, group_n, num_resamples=num_resamples, rng=own_rng)
    return Resamples(counts_RG[:, group_n], is_anomalous_n, group_n, one_more_Rn)


def _one_more(
    has_label_n: Bool[np.ndarray, " n"],
    group_n: Int[np.ndarray, " n"],
    *,
    num_resamples: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "R n"]:
    """The weight of one group more with the label, on the images without it of another group in each resample."""
    with_G, without_G = np.bincount(group_n, has_label_n), np.bincount(group_n, ~has_label_n)
    group_R = rng.choice(np.flatnonzero(without_G), size=num_resamples)
    weight_R = (
        rng.exponential(with_G.sum() / _effective_number(with_G), size=num_resamples) / without_G[group_R]
    )
    return np.where(~has_label_n & (group_n == group_R[:, None]), weight_R[:, None], 0.0)


def _effective_number(weight_G: Real[np.ndarray, " G"]) -> float:
    """How many of equal weight would tell as much: (sum w)^2 / sum w^2 (Kish)."""
    return float(weight_G.sum() ** 2 / (weight_G**2).sum())


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
    """Each of `IMAGE_METRICS` on every resample: its value, and how far the resample lies from the mean of all. Values may lie
    beyond 0 or 1.

    None where they are not defined: one label has no image, or a score is not finite.
    """
    is_anomalous_n = resamples.is_anomalous_n
    if is_anomalous_n.all() or not is_anomalous_n.any() or not np.isfinite(scores_n).all():
        return None
    one_more_Rn = resamples.one_more_Rn * _in_nearer_half(scores_n, is_anomalous_n)
    of_all = weighted_image_metrics(is_anomalous_n[None], ~is_anomalous_n[None], scores_n)
    of_resamples = weighted_image_metrics(
        np.where(is_anomalous_n, resamples.counts_Rn, one_more_Rn),
        np.where(is_anomalous_n, one_more_Rn, resamples.counts_Rn),
        scores_n,
    )
    degrees_of_freedom = resamples.degrees_of_freedom(is_anomalous_n, ~is_anomalous_n)
    return {
        metric: Replicates(of_all[metric] + (values_R - values_R.mean()), degrees_of_freedom)
        for metric, values_R in of_resamples.items()
    }


def _in_nearer_half(
    scores_n: Float[np.ndarray, " n"], is_anomalous_n: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Of each label's images 1 in the half that is scored more like the other label, 0 in the other half, 1/2 at the median."""
    nearer_n = np.empty(len(scores_n))
    for label, toward in ((True, -1), (False, 1)):
        own_n = is_anomalous_n == label
        nearer_n[own_n] = (1 + toward * np.sign(scores_n[own_n] - np.median(scores_n[own_n]))) / 2
    return nearer_n


def weighted_image_metrics(
    anomalous_Rn: Real[np.ndarray, "R n"],
    normal_Rn: Real[np.ndarray, "R n"],
    scores_n: Float[np.ndarray, " n"],
) -> dict[str, Float[np.ndarray, " R"]]:
    """Each of `IMAGE_METRICS`, as `image_metrics` defines them, where an image weighs so much as an anomalous and so much as a normal one."""
    order = np.argsort(-scores_n, kind="stable")
    descending = scores_n[order]
    ends_T = np.append(np.flatnonzero(np.diff(descending)), len(descending) - 1)
    # Called anomalous at each threshold, rightly and wrongly; equal scores are called together.
    true_RT, false_RT = (
        weights_Rn[:, order].cumsum(axis=1, dtype=float)[:, ends_T]
        for weights_Rn in (anomalous_Rn, normal_Rn)
    )
    positives_R, negatives_R = true_RT[:, -1], false_RT[:, -1]
    gained_RT = np.diff(true_RT, axis=1, prepend=0)
    called_RT = true_RT + false_RT
    # Pairs in the right order: a new negative lies below the positives called before it, and beside its equals.
    twice_right_RT = np.diff(false_RT, axis=1, prepend=0) * (2 * true_RT - gained_RT)
    # Nothing called: nothing gained either.
    precision_RT = np.divide(true_RT, called_RT, out=np.zeros_like(true_RT), where=called_RT > 0)
    values = (
        twice_right_RT.sum(axis=1) / (2 * positives_R * negatives_R),
        (gained_RT * precision_RT).sum(axis=1) / positives_R,
        (2 * true_RT / (called_RT + positives_R[:, None])).max(axis=1),
    )
    return dict(zip(IMAGE_METRICS, values, strict=True))
