"""Distances of features from kept ones that were asked for before.

Neither features nor kept ones depend on what is trained, so every rung of every trial of a process asks for the same. To tell that they are
the same takes a thirtieth of the time of computing them.

Shapes: n features, K kept features, C channels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hvqray.models.coreset import nearest
from hvqray.models.memo import Memo, digest


class KnownDistances:
    """Keeps at most `most` distances, those that were asked for last."""

    def __init__(self, most: int) -> None:
        self._memo = Memo(most)

    def __call__(self, x_nC: Float[Tensor, "n C"], kept_KC: Float[Tensor, "K C"]) -> Float[Tensor, " n"]:
        """Of each feature from the nearest of the kept ones, to be left as it is. Only what lies in the host's memory is remembered: to look
        at another device's would wait for it."""
        if x_nC.device.type != "cpu" or torch.compiler.is_exporting():
            return nearest(x_nC, kept_KC)[0]
        return self._memo((digest(x_nC), digest(kept_KC)), lambda: nearest(x_nC, kept_KC)[0])
