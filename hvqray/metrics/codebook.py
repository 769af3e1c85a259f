"""Health of a codebook: how many of its codes are in use, how evenly, and how much they say beyond the codes of a level above.

Legend: P distinct pairs of codes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


def count_codes(codes: Int[np.ndarray, " *shape"]) -> Counter[int]:
    """How often each code occurs; sparse, because an implicit (FSQ) codebook can be huge."""
    values, counts = np.unique(codes, return_counts=True)
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))


def codebook_use(counts: Counter[int], size: int) -> tuple[float, float]:
    """`(use, perplexity)` of a codebook of `size` codes, from the counts of a pass over a split.

    `use` is the share of codes seen, in [0, 1]; perplexity is exp(entropy in nats) of the codes' frequencies, from 1 (one code)
    to `size` (all equally often).

    Raises:
        ValueError: `counts` is empty, or holds a code outside [0, size).
    """
    if not counts or min(counts) < 0 or max(counts) >= size:
        seen = f"{min(counts)} to {max(counts)}" if counts else "none"
        raise ValueError(f"codes must lie in [0, {size}); seen: {seen}")
    total = counts.total()
    entropy = math.fsum(-n / total * math.log(n / total) for n in counts.values())
    return len(counts) / size, math.exp(entropy)


@dataclass(frozen=True)
class CodePairs:
    """How often each code occurs together with each of the level above; sparse, as codes are counted."""

    key_P: Int[np.ndarray, " P"]
    """upper * size + lower, ascending; of Python's integers where int64 is too short."""
    count_P: Int[np.ndarray, " P"]
    size: int
    """Codes of the lower level."""


def count_pairs(
    upper: Int[np.ndarray, " *shape"], lower: Int[np.ndarray, " *shape"], *, sizes: tuple[int, int]
) -> CodePairs:
    """Count pairs of codes of the same locations, of codebooks of these `sizes`."""
    key = upper.astype(object if sizes[0] * sizes[1] > np.iinfo(np.int64).max else np.int64)
    return CodePairs(*np.unique(key * sizes[1] + lower, return_counts=True), sizes[1])


def add_pairs(parts: Sequence[CodePairs]) -> CodePairs:
    """The pairs of all parts together, which are of the same two levels."""
    key_P = np.concatenate([part.key_P for part in parts])
    order = np.argsort(key_P, kind="stable")  # each part is sorted
    count_P = np.concatenate([part.count_P for part in parts])[order]
    return CodePairs(*_sum_equal(key_P[order], count_P), parts[0].size)


def perplexity_given(pairs: CodePairs) -> float:
    """exp(H(lower | upper)), H in nats: from 1, where the upper code tells the lower one, to the perplexity of the lower codes by
    themselves, where it tells nothing."""
    _, upper_counts = _sum_equal(pairs.key_P // pairs.size, pairs.count_P)
    entropy = _sum_of_n_log_n(upper_counts) - _sum_of_n_log_n(pairs.count_P)
    return math.exp(max(0.0, entropy / int(pairs.count_P.sum())))


def _sum_equal(
    ascending_P: Int[np.ndarray, " P"], count_P: Int[np.ndarray, " P"]
) -> tuple[Int[np.ndarray, " Q"], Int[np.ndarray, " Q"]]:
    """Each key once, with how often it occurs."""
    first = np.append(0, np.flatnonzero(ascending_P[1:] != ascending_P[:-1]) + 1)
    return ascending_P[first], np.add.reduceat(count_P, first)


def _sum_of_n_log_n(counts: Int[np.ndarray, " P"]) -> float:
    return float((counts * np.log(counts)).sum())
