"""Health of a codebook: how many of its codes are in use, and how evenly."""

from __future__ import annotations

import math
from collections import Counter

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
