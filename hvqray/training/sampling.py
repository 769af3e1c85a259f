"""Which images an epoch takes, in which order: a pure function of seed and epoch, so a resumed run draws the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_GOLDEN_RATIO = (5**0.5 - 1) / 2
"""Its multiples modulo 1 fill the unit interval more evenly than any other's."""


def class_quotas(counts: np.ndarray, *, total: int, class_balance: float, num_epochs: int) -> np.ndarray:
    """Images per epoch and class, (E, M) int64 that sums to `total` in each epoch.

    Shares are n_c ** (1 - class_balance), rounded down or up so that over the epochs each class gets its share, be it less than an
    image an epoch; classes without images get none.
    """
    weights = np.where(counts > 0, counts.astype(np.float64) ** (1.0 - class_balance), 0.0)
    # Systematic sampling: the classes lie side by side on a line of length `total`, and marks at distance 1 are counted.
    ends_M = total * weights.cumsum() / weights.sum()
    start_E = np.arange(num_epochs) * _GOLDEN_RATIO % 1.0
    rounding = 1e-9  # a share of 3 stays 3 where its sum comes out a little below
    marks_EM = np.floor(ends_M + start_E[:, None] + rounding).astype(np.int64)
    return np.diff(marks_EM, axis=1, prepend=0)


def epoch_indices(
    class_index: np.ndarray, *, epoch: int, seed: int, images_per_epoch: int | None, class_balance: float
) -> np.ndarray:
    """Positions of the images of epoch `epoch` (from 0), shuffled; (images_per_epoch or n,) int64.

    Each class runs through a permutation of all its images before any comes again, over epochs too.
    """
    quotas_EM = class_quotas(
        np.bincount(class_index),
        total=images_per_epoch or len(class_index),
        class_balance=class_balance,
        num_epochs=epoch + 1,
    )
    starts_M = quotas_EM[:-1].sum(axis=0).tolist()
    parts = [
        _take(np.flatnonzero(class_index == c), start=starts_M[c], count=quota, seed=(seed, c))
        for c, quota in enumerate(quotas_EM[-1].tolist())
        if quota
    ]
    return np.random.default_rng((seed, epoch, 1)).permutation(np.concatenate(parts))


def _take(members: np.ndarray, *, start: int, count: int, seed: tuple[int, int]) -> np.ndarray:
    """`count` entries from `start` on of the endless row of permutations of `members`."""
    size = len(members)
    first, last = start // size, (start + count - 1) // size
    row = np.concatenate(
        [np.random.default_rng((*seed, block)).permutation(members) for block in range(first, last + 1)]
    )
    return row[start - first * size :][:count]


def batches(indices: np.ndarray, *, batch_size: int) -> Iterator[np.ndarray]:
    """Global batches of an epoch. An incomplete last one is left out, unless it is the only one."""
    if len(indices) < batch_size:
        yield indices
        return
    for start in range(0, len(indices) - batch_size + 1, batch_size):
        yield indices[start : start + batch_size]


def num_batches(num_images: int, *, batch_size: int) -> int:
    """How many batches `batches` gives."""
    return max(1, num_images // batch_size)


def rank_rows(num_rows: int, *, rank: int, world_size: int) -> slice:
    """The rows of a global batch that are this rank's: contiguous, sizes differing by one at most."""
    return slice(num_rows * rank // world_size, num_rows * (rank + 1) // world_size)
