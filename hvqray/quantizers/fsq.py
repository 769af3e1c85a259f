"""Finite scalar quantisation: every dimension of a latent is bounded, then rounded to one of a few fixed levels.

Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple", arXiv 2309.15505, section 3 and appendix A.1.
The implicit codebook is the grid of all level combinations: nothing is learned, and nothing can collapse.

Legend: *n any leading dimensions, d number of FSQ dimensions (length of `levels`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

_EPS = 1e-3
# From 1000 levels on, the margin that eps adds at the ends would round to a level that does not exist.
_LEVEL_LIMITS = (3, 999)


class FSQOutput(NamedTuple):
    """What quantising gives."""

    codes: Float[Tensor, "*n d"]
    """float32 in [-1, 1]; the gradient passes straight through the rounding."""
    indices: Int64[Tensor, "*n"]
    """int64 in [0, codebook_size)."""


class FSQ(nn.Module):
    """Rounds latents to a fixed grid; has no parameters and no codebook loss.

    Computed in float32 whatever the autocast, since bfloat16 cannot tell neighbouring levels from rounding noise.

    Raises ValueError if `levels` is empty or a level lies outside [3, 999] (2 levels are binary, not FSQ).
    """

    levels: Tensor
    basis: Tensor
    amplitude: Tensor
    offset: Tensor
    shift: Tensor
    half_width: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels:
            raise ValueError("levels: at least one dimension is needed")
        low, high = _LEVEL_LIMITS
        for level in levels:
            if not low <= level <= high:
                raise ValueError(f"levels: {level} in {list(levels)} lies outside [{low}, {high}]")
        self.num_dims = len(levels)
        self.codebook_size = math.prod(levels)

        # Constants follow from the configuration, so checkpoints need not carry them.
        levels_d = torch.tensor(levels, dtype=torch.int64)
        half_d = (levels_d - 1).double() * (1 + _EPS) / 2
        offset_d = torch.where(levels_d % 2 == 0, 0.5, 0.0).double()
        constants = {
            "levels": levels_d,
            "basis": torch.tensor([math.prod(levels[:i]) for i in range(self.num_dims)], dtype=torch.int64),
            "amplitude": half_d.float(),
            "offset": offset_d.float(),
            "shift": torch.atanh(offset_d / half_d).float(),
            "half_width": (levels_d // 2).float(),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, z: Float[Tensor, "*n d"]) -> FSQOutput:
        """Codes and indices of latents of any floating dtype.

        bound(z) = tanh(z + shift) * half - offset; code = (bound + sg(round(bound) - bound)) / floor(L / 2).
        Raises ValueError if the last dimension is not `num_dims`.
        """
        if z.shape[-1] != self.num_dims:
            raise ValueError(f"expected latents (..., {self.num_dims}), got {tuple(z.shape)}")
        with torch.autocast(device_type=z.device.type, enabled=False):
            bounded = torch.tanh(z.float() + self.shift) * self.amplitude - self.offset
            rounded = bounded.detach().round()
            codes = (bounded + (rounded - bounded).detach()) / self.half_width
        return FSQOutput(codes, self._digits_to_indices(rounded))

    def codes_to_indices(self, codes: Float[Tensor, "*n d"]) -> Int64[Tensor, "*n"]:
        """Index of each code: sum over the dimensions of (code + floor(L / 2)) * basis, basis = product of the levels before."""
        return self._digits_to_indices((codes.detach().float() * self.half_width).round())

    def indices_to_codes(self, indices: Int64[Tensor, "*n"]) -> Float[Tensor, "*n d"]:
        """The code in [-1, 1] at each index; inverse of `codes_to_indices`."""
        digits = indices.unsqueeze(-1) // self.basis % self.levels
        return digits / self.half_width - 1

    def _digits_to_indices(self, rounded: Tensor) -> Tensor:
        # An index that is no code would break the lookup for the whole batch; the code itself stays NaN.
        return ((rounded.nan_to_num() + self.half_width).long() * self.basis).sum(-1)
