"""Tokens that are codes: where there are fewer codes than tokens, a linear map is taken of the codes, and looked up.

Shapes: B images, L tokens, D and E widths, K codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class CodeTokens:
    """Tokens, and where it pays the codes that all of them are: `tokens_BLD = codes_KD[indices_BL]`."""

    tokens_BLD: Float[Tensor, "B L D"]
    codes_KD: Float[Tensor, "K D"] | None = None
    indices_BL: Int[Tensor, "B L"] | None = None

    def through(self, linear: nn.Linear, position_LD: Tensor | None = None) -> Float[Tensor, "B L E"]:
        """`linear(tokens + position)`, from W (code + position) + b = (W code + b) + W position where codes are few."""
        if self.codes_KD is None or self.indices_BL is None:
            return linear(self.tokens_BLD if position_LD is None else self.tokens_BLD + position_LD)
        mapped_BLE = F.embedding(self.indices_BL, linear(self.codes_KD))
        if position_LD is None:
            return mapped_BLE
        return mapped_BLE.add_(F.linear(position_LD, linear.weight))
