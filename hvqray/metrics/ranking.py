"""AUROC, average precision and F1-max, exact with ties, from one sort of the negatives.

All three depend only on how many negatives lie at or above each distinct score of a positive. Positives are few
(about 3 % of pixels), so the negatives are sorted alone and the positives are searched in them.

Legend: n scores, P positives, T distinct scores of positives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Ranking:
    """How positives and negatives are ordered by score; has at least one of each."""

    thresholds_T: Float[np.ndarray, " T"]
    """Distinct scores of positives, ascending."""
    group_P: Int[np.ndarray, " P"]
    """Index into `thresholds_T` of every positive, in the order given."""
    positives_T: Int[np.ndarray, " T"]
    """Positives of exactly this score."""
    negatives_above_T: Int[np.ndarray, " T"]
    """Negatives of a score greater than this."""
    negatives_from_T: Int[np.ndarray, " T"]
    """Negatives of a score greater than or equal to this."""
    num_negatives: int

    @property
    def num_positives(self) -> int:
        return len(self.group_P)

    @property
    def positives_from_T(self) -> Int[np.ndarray, " T"]:
        """Positives of a score greater than or equal to this."""
        return self.positives_T[::-1].cumsum()[::-1]


def rank_scores(scores_n: Float[np.ndarray, " n"], is_positive_n: Bool[np.ndarray, " n"]) -> Ranking | None:
    """Order scores; None where no ranking metric is defined: no positive, no negative, or a score not finite.

    The scores keep their precision: float32 scores are compared as float32.
    """
    positives, negatives = scores_n[is_positive_n], scores_n[~is_positive_n]
    if not (len(positives) and len(negatives) and np.isfinite(scores_n).all()):
        return None
    negatives.sort()
    thresholds, group, counts = np.unique(positives, return_inverse=True, return_counts=True)
    return Ranking(
        thresholds_T=thresholds,
        group_P=group,
        positives_T=counts,
        negatives_above_T=len(negatives) - np.searchsorted(negatives, thresholds, side="right"),
        negatives_from_T=len(negatives) - np.searchsorted(negatives, thresholds, side="left"),
        num_negatives=len(negatives),
    )


def auroc(ranking: Ranking) -> float:
    """Probability that a positive scores above a negative, a tie counting half (Mann-Whitney U / (P N))."""
    twice_above = ranking.negatives_above_T + ranking.negatives_from_T
    twice_pairs = 2 * ranking.num_positives * ranking.num_negatives
    return (twice_pairs - int(ranking.positives_T @ twice_above)) / twice_pairs


def average_precision(ranking: Ranking) -> float:
    """Sum over thresholds of precision times the gain in recall, without interpolation (scikit-learn's definition)."""
    true = ranking.positives_from_T
    precision_T = true / (true + ranking.negatives_from_T)
    return float(ranking.positives_T @ precision_T) / ranking.num_positives


def f1_max(ranking: Ranking) -> tuple[float, float]:
    """Largest F1 over all thresholds, and the score from which on it calls positive (the highest such).

    Scores of positives suffice as thresholds: any other only adds false positives to the next higher one.
    """
    true = ranking.positives_from_T
    f1_T = 2 * true / (true + ranking.negatives_from_T + ranking.num_positives)
    best = len(f1_T) - 1 - int(f1_T[::-1].argmax())
    return float(f1_T[best]), float(ranking.thresholds_T[best])
