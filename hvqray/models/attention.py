"""Post-norm transformer layers whose position embedding is added to queries and keys in every attention.

Vaswani et al., arXiv 1706.03762, with the positions of Carion et al., "DETR", arXiv 2005.12872.

Shapes: B images, L query tokens, S key tokens, D width, N heads, d = D / N, E feed-forward width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hvqray.models.code_tokens import CodeTokens
from hvqray.models.random_stream import RandomStream

MOST_UNFUSED_WEIGHTS = 2**18
"""A head's attention weights up to which a CPU avoids the fused kernel in bfloat16. Where there are more, that is about as fast as any other
way, and holds none of them."""
WIDE_HEAD = 32
"""Channels from which on the two products are faster there than the fused kernel."""


class Dropout(nn.Module):
    """Dropout whose masks come from the model's `RandomStream`, so that they do not depend on the number of ranks."""

    def __init__(self, probability: float, random: RandomStream) -> None:
        super().__init__()
        self.probability = probability
        self._random = random

    @property
    def is_active(self) -> bool:
        return self.training and self.probability > 0

    def forward(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        if not self.is_active:
            return x
        return x * self.keep_mask(x).div_(1 - self.probability)

    def keep_mask(self, like: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """Ones to keep, and zeros, in the shape and dtype of `like`."""
        return self._random.keep_mask(like, 1 - self.probability)


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention over several heads, with dropout on the attention weights.

    The keys have no bias: it would add the same to all scores of a query, which the softmax takes away again.
    """

    def __init__(self, width: int, num_heads: int, dropout: Dropout) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.dropout = dropout
        for projection in (self.query, self.key, self.value):
            # The bound of Xavier's initialisation for the three taken as one matrix, as is usual.
            nn.init.xavier_uniform_(projection.weight, gain=math.sqrt(0.5))
        for biased in (self.query, self.value, self.output):
            nn.init.zeros_(biased.bias)

    def forward(
        self,
        query_BLD: Float[Tensor, "B L D"],
        key_BSD: Float[Tensor, "B S D"],
        value_BSD: Float[Tensor, "B S D"],
    ) -> Float[Tensor, "B L D"]:
        return self.attend(self.query(query_BLD), self.key(key_BSD), self.value(value_BSD))

    def attend(
        self,
        query_BLD: Float[Tensor, "B L D"],
        key_BSD: Float[Tensor, "B S D"],
        value_BSD: Float[Tensor, "B S D"],
    ) -> Float[Tensor, "B L D"]:
        """Attention of what the three projections gave."""
        query_BNLd, key_BNSd, value_BNSd = map(self._split_heads, (query_BLD, key_BSD, value_BSD))
        fused_is_slow = _fused_is_slow(query_BNLd, key_BNSd)
        if self.dropout.is_active or (fused_is_slow and query_BNLd.shape[-1] >= WIDE_HEAD):
            # Spelt out: the fused kernel can't take its mask from the model's stream, and is slow with dropout on CPUs.
            scale = 1 / math.sqrt(query_BNLd.shape[-1])
            weights_BNLS = ((query_BNLd * scale) @ key_BNSd.mT).softmax(-1)
            if self.dropout.is_active:
                # The values are scaled, not the weights, of which there are many more.
                weights_BNLS = weights_BNLS * self.dropout.keep_mask(weights_BNLS)
                value_BNSd = value_BNSd / (1 - self.dropout.probability)
            out_BNLd = weights_BNLS @ value_BNSd
        elif fused_is_slow and query_BNLd.requires_grad:
            # The kernel's backward pass takes three times as long in bfloat16 as in float32.
            with torch.autocast(query_BNLd.device.type, enabled=False):
                out_BNLd = F.scaled_dot_product_attention(
                    query_BNLd.float(), key_BNSd.float(), value_BNSd.float()
                ).to(query_BNLd.dtype)
        else:
            out_BNLd = F.scaled_dot_product_attention(query_BNLd, key_BNSd, value_BNSd)
        return self.output(out_BNLd.transpose(1, 2).flatten(2))

    def _split_heads(self, x_BLD: Tensor) -> Tensor:
        return x_BLD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _fused_is_slow(query_BNLd: Tensor, key_BNSd: Tensor) -> bool:
    """On CPUs the fused kernel takes as long in bfloat16 as in float32, and its backward pass longer."""
    is_bfloat16_on_cpu = query_BNLd.device.type == "cpu" and query_BNLd.dtype == torch.bfloat16
    return (
        is_bfloat16_on_cpu
        and not torch.compiler.is_exporting()
        and query_BNLd.shape[2] * key_BNSd.shape[2] <= MOST_UNFUSED_WEIGHTS
    )


class FeedForward(nn.Module):
    """Linear, ReLU, dropout, linear."""

    def __init__(self, width: int, hidden_width: int, dropout: Dropout) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden_width)
        self.contract = nn.Linear(hidden_width, width)
        self.dropout = dropout

    def forward(self, x_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.contract(self.dropout(self.expand(x_BLD).relu_()))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each added to its input and normalised."""

    def __init__(self, width: int, num_heads: int, feedforward_width: int, dropout: Dropout) -> None:
        super().__init__()
        self.self_attention = MultiheadAttention(width, num_heads, dropout)
        self.feedforward = FeedForward(width, feedforward_width, dropout)
        self.norm_attention = nn.LayerNorm(width)
        self.norm_feedforward = nn.LayerNorm(width)
        self.dropout = dropout

    def forward(
        self, x_BLD: Float[Tensor, "B L D"], position_LD: Float[Tensor, "L D"]
    ) -> Float[Tensor, "B L D"]:
        query_BLD = x_BLD + position_LD
        x_BLD = self.norm_attention(x_BLD + self.dropout(self.self_attention(query_BLD, query_BLD, x_BLD)))
        return self.norm_feedforward(x_BLD + self.dropout(self.feedforward(x_BLD)))


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention to codes on the same grid, and feed-forward, each added and normalised."""

    def __init__(self, width: int, num_heads: int, feedforward_width: int, dropout: Dropout) -> None:
        super().__init__()
        self.self_attention = MultiheadAttention(width, num_heads, dropout)
        self.cross_attention = MultiheadAttention(width, num_heads, dropout)
        self.feedforward = FeedForward(width, feedforward_width, dropout)
        self.norm_self = nn.LayerNorm(width)
        self.norm_cross = nn.LayerNorm(width)
        self.norm_feedforward = nn.LayerNorm(width)
        self.dropout = dropout

    def forward(
        self,
        x_BLD: Float[Tensor, "B L D"],
        code: CodeTokens,
        position_LD: Float[Tensor, "L D"],
    ) -> Float[Tensor, "B L D"]:
        query_BLD = x_BLD + position_LD
        x_BLD = self.norm_self(x_BLD + self.dropout(self.self_attention(query_BLD, query_BLD, x_BLD)))
        cross = self.cross_attention
        crossed_BLD = cross.attend(
            cross.query(x_BLD + position_LD), code.through(cross.key, position_LD), code.through(cross.value)
        )
        x_BLD = self.norm_cross(x_BLD + self.dropout(crossed_BLD))
        return self.norm_feedforward(x_BLD + self.dropout(self.feedforward(x_BLD)))


class PositionEmbedding(nn.Module):
    """A learned vector for each row and each column of the grid, side by side: (L, D) for L = h * w tokens."""

    def __init__(self, grid_size: tuple[int, int], width: int) -> None:
        super().__init__()
        height, breadth = grid_size
        self.row_hE = nn.Parameter(torch.rand(height, width // 2))
        self.column_wE = nn.Parameter(torch.rand(breadth, width // 2))

    def forward(self) -> Float[Tensor, "L D"]:
        height, breadth = len(self.row_hE), len(self.column_wE)
        row_hwE = self.row_hE[:, None].expand(-1, breadth, -1)
        column_hwE = self.column_wE[None].expand(height, -1, -1)
        return torch.cat([row_hwE, column_hwE], dim=-1).flatten(0, 1)
