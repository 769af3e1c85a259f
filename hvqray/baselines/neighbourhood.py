"""Features averaged over each location's surroundings."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

NEIGHBOURHOODS = (1, 3)
"""Sides of the squares that are tried: the 3 of PatchCore's paper, and 1, as a location of a grid of stride 16 has seen its
surroundings already."""


def average_neighbourhood(features_BChw: Float[Tensor, "B C h w"], side: int) -> Float[Tensor, "B C h w"]:
    """Means over `side` x `side` locations, as far as they lie on the grid; float32."""
    x_BChw = features_BChw.float()
    return F.avg_pool2d(x_BChw, side, 1, side // 2, count_include_pad=False) if side > 1 else x_BChw
