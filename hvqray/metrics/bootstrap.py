"""Bootstrap replicates of the image metrics: how much they owe to the very images that were tested.

Images are resampled with replacement within each label (normal, anomalous), so that a resample has as many of each as
the test set. A resample is a vector of counts a label, and all metrics follow from the counts summed up in the
order of the scores: no resample is ever sorted.

Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), sections 8.3 (two samples) and 13.3 (percentile
intervals).

Legend: n images of one class, R resamples, T distinct scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from hvqray.metrics.per_class import IMAGE_METRICS


@dataclass(frozen=True)
class Resamples:
    """How often each image is in each resample."""

    counts_Rn: Int[np.ndarray, "R n"]
    is_anomalous_n: Bool[np.ndarray, " n"]


def resample_images(
    is_anomalous_n: Bool[np.ndarray, " n"], *, num_resamples: int, rng: np.random.Generator
) -> Resamples | None:
    """Draw resamples, stratified by label; None where one of the labels has no image, so that no metric is defined."""
    counts_Rn = np.empty((num_resamples, len(is_anomalous_n)), dtype=np.int64)
    for members in (np.flatnonzero(is_anomalous_n), np.flatnonzero(~is_anomalous_n)):
        if not len(members):
            return None
        even = np.full(len(members), 1 / len(members))
        counts_Rn[:, members] = rng.multinomial(len(members), even, size=num_resamples)
    return Resamples(counts_Rn, is_anomalous_n)


def resampled_image_metrics(
    resamples: Resamples, scores_n: Float[np.ndarray, " n"]
) -> dict[str, Float[np.ndarray, " R"]] | None:
    """Each of `IMAGE_METRICS` on every resample, as `image_metrics` defines them; None where a score is not finite."""
    if not np.isfinite(scores_n).all():
        return None
    order = np.argsort(-scores_n, kind="stable")
    descending = scores_n[order]
    ends_T = np.append(np.flatnonzero(np.diff(descending)), len(descending) - 1)
    counts_Rn, is_anomalous_n = resamples.counts_Rn[:, order], resamples.is_anomalous_n[order]
    # Called anomalous at each threshold, rightly and wrongly; equal scores are called together.
    true_RT = (counts_Rn * is_anomalous_n).cumsum(axis=1)[:, ends_T]
    false_RT = (counts_Rn * ~is_anomalous_n).cumsum(axis=1)[:, ends_T]
    num_positives, num_negatives = int(is_anomalous_n.sum()), int((~is_anomalous_n).sum())
    gained_RT = np.diff(true_RT, axis=1, prepend=0)
    called_RT = true_RT + false_RT
    # Pairs in the right order: a new negative lies below the positives called before it, and beside its equals.
    twice_right_RT = np.diff(false_RT, axis=1, prepend=0) * (2 * true_RT - gained_RT)
    precision_RT = true_RT / np.maximum(called_RT, 1)  # nothing called: nothing gained either
    values = (
        twice_right_RT.sum(axis=1) / (2 * num_positives * num_negatives),
        (gained_RT * precision_RT).sum(axis=1) / num_positives,
        (2 * true_RT / (called_RT + num_positives)).max(axis=1),
    )
    return dict(zip(IMAGE_METRICS, values, strict=True))
