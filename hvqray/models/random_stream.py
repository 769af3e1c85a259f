"""Random draws that are the same however a batch is split over ranks."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


class RandomStream:
    """Random draws for one step that do not depend on how the batch is split over ranks.

    Every rank seeds the same generator, draws for the whole global batch, and keeps its own rows; so two workers
    with half the batch each see the same dropout masks and noise as one worker with all of it. CPUs draw other masks than GPUs.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._generator = torch.Generator(device=device)
        self._bits = np.random.Generator(np.random.SFC64(0)) if self._generator.device.type == "cpu" else None
        self._rows = slice(None)
        self._num_rows: int | None = None

    def begin_step(self, seed: int, *, rows: slice, num_rows: int) -> None:
        """Start a step: `rows` of the global batch of `num_rows` images are this rank's."""
        self._generator.manual_seed(seed)
        if self._bits is not None:
            self._bits = np.random.Generator(np.random.SFC64(seed))
        self._rows, self._num_rows = rows, num_rows

    def keep_mask(self, like: Tensor, keep_probability: float) -> Tensor:
        """Bernoulli(keep_probability) in the shape and dtype of `like`, whose first dimension is this rank's images.

        The probability is met to 1 / 65536: four decisions from one 64-bit draw cost a third of `bernoulli_`.
        """
        shape = (self._num_rows or like.shape[0], *like.shape[1:])
        count = math.prod(shape)
        uniform = self._words((count + 3) // 4).view(torch.int16)[:count].view(shape)[self._rows]
        highest_kept = max(1, round(keep_probability * 65536)) - 32769
        # Compared into the mask itself: by way of booleans it takes four times as long.
        return torch.le(uniform, highest_kept, out=torch.empty_like(uniform, dtype=like.dtype))

    def _words(self, count: int) -> Tensor:
        """`count` uniform draws of 64 bits, int64."""
        if self._bits is None:
            draws = torch.empty(count, dtype=torch.int64, device=self._generator.device)
            return draws.random_(-(2**63), None, generator=self._generator)
        # Half the time of torch's generator for CPUs, which no number of threads makes faster.
        lowest, highest = -(2**63), 2**63 - 1
        return torch.from_numpy(self._bits.integers(lowest, highest, count, dtype=np.int64, endpoint=True))

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal draws in the shape and dtype of `like`, whose first dimension is this rank's images."""
        shape = (self._num_rows or like.shape[0], *like.shape[1:])
        full = torch.empty(shape, dtype=like.dtype, device=like.device)
        return full.normal_(generator=self._generator)[self._rows]
