"""HVQ-Trans trained the way the published code does it, spelt out plainly as the thing to be compared with.

Lu et al., NeurIPS 2023, arXiv 2310.14228. The same mathematics as `hvqray.models.hvq`, but: the backbone runs in every step
and in train mode; codebooks are a module for every class and level and are looked up image by image; each image makes an EMA
update of its own, by one-hot products and from counts that start at 0; output maps are applied image by image; the loss is
fetched in every step; float32 throughout. Written anew for this comparison.

Legend: B batch, L tokens, D width, W = 2 D, C feature channels, K codes, h x w feature grid, S x S image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hvqray.config.model_sections import HvqConfig
from hvqray.models.context import ModelContext

EPSILON = 1e-5


class Codebook(nn.Module):
    """The codes of one class at one level, for one image at a time."""

    codes_KD: Tensor
    sum_KD: Tensor
    count_K: Tensor

    def __init__(self, size: int, width: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("codes_KD", torch.randn(size, width))
        self.register_buffer("sum_KD", self.codes_KD.clone())
        self.register_buffer("count_K", torch.zeros(size))

    def forward(self, x_LD: Tensor) -> tuple[Tensor, Tensor]:
        """The codes (straight-through), and the commitment term."""
        squares = x_LD.square().sum(1, keepdim=True) + self.codes_KD.square().sum(1)
        nearest_L = (squares - 2 * x_LD @ self.codes_KD.T).argmin(1)
        one_hot_LK = F.one_hot(nearest_L, len(self.codes_KD)).float()
        code_LD = F.embedding(nearest_L, self.codes_KD)
        if self.training:
            self._update(x_LD.detach(), one_hot_LK)
        return x_LD + (code_LD - x_LD).detach(), F.mse_loss(code_LD.detach(), x_LD)

    def _update(self, x_LD: Tensor, one_hot_LK: Tensor) -> None:
        self.count_K = self.decay * self.count_K + (1 - self.decay) * one_hot_LK.sum(0)
        self.sum_KD = self.decay * self.sum_KD + (1 - self.decay) * one_hot_LK.T @ x_LD
        total = self.count_K.sum()
        smoothed_K = total * (self.count_K + EPSILON) / (total + len(self.count_K) * EPSILON)
        self.codes_KD = self.sum_KD / smoothed_K[:, None]

    def transport_cost(self, x_LD: Tensor) -> Tensor:
        """sum_k (1 - cos(x, c_k)) softmax_k(x . c_k / K), of one image's tokens."""
        share_LK = (x_LD @ self.codes_KD.T / len(self.codes_KD)).softmax(-1)
        cosine_LK = F.normalize(x_LD, dim=-1) @ F.normalize(self.codes_KD, dim=-1).T
        return ((1 - cosine_LK) * share_LK).sum(-1)


class Layer(nn.Module):
    """A post-norm layer of PyTorch's own parts: self-attention, cross-attention in the decoder, feed-forward."""

    def __init__(self, config: HvqConfig, width: int, *, crossing: bool) -> None:
        super().__init__()
        heads, p = config.num_heads, config.dropout
        self.attention = nn.MultiheadAttention(width, heads, dropout=p, batch_first=True)
        self.crossing = nn.MultiheadAttention(width, heads, dropout=p, batch_first=True) if crossing else None
        self.expand = nn.Linear(width, config.feedforward_width)
        self.contract = nn.Linear(config.feedforward_width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if crossing else 2))
        self.dropout = nn.Dropout(p)

    def forward(self, x_BLD: Tensor, position_LD: Tensor, code_BLD: Tensor | None = None) -> Tensor:
        query = x_BLD + position_LD
        x_BLD = self.norms[0](x_BLD + self.dropout(self.attention(query, query, x_BLD, need_weights=True)[0]))
        if self.crossing is not None:
            assert code_BLD is not None
            crossed = self.crossing(x_BLD + position_LD, code_BLD + position_LD, code_BLD, need_weights=True)[
                0
            ]
            x_BLD = self.norms[1](x_BLD + self.dropout(crossed))
        inner = self.contract(self.dropout(F.relu(self.expand(x_BLD))))
        return self.norms[-1](x_BLD + self.dropout(inner))


class PublishedHvq(nn.Module):
    """The trained part, from features to their reconstruction."""

    def __init__(self, config: HvqConfig, context: ModelContext) -> None:
        super().__init__()
        width, depth, classes = config.width, config.hierarchy_depth, len(context.class_names)
        self.grid_size = context.grid_size
        self.projection = nn.Linear(context.feature_channels, width)
        self.row_hE = nn.Parameter(torch.rand(context.grid_size[0], width // 2))
        self.column_wE = nn.Parameter(torch.rand(context.grid_size[1], width // 2))
        self.encoder = nn.ModuleList(Layer(config, width, crossing=False) for _ in range(depth))
        self.decoder = nn.ModuleList(Layer(config, 2 * width, crossing=True) for _ in range(depth))
        self.norm = nn.LayerNorm(2 * width)

        def codebooks(num_codes: int, dim: int) -> nn.ModuleList:
            return nn.ModuleList(Codebook(num_codes, dim, config.ema_decay) for _ in range(classes))

        top, *lower = config.codebook_sizes()
        self.top = codebooks(top, width)
        self.lower = nn.ModuleList(codebooks(num_codes, 2 * width) for num_codes in reversed(lower))
        self.experts = nn.ModuleList(nn.Linear(2 * width, context.feature_channels) for _ in range(classes))

    def position(self) -> Tensor:
        height, breadth = self.grid_size
        row = self.row_hE[:, None].expand(height, breadth, -1)
        column = self.column_wE[None].expand(height, breadth, -1)
        return torch.cat([row, column], dim=-1).flatten(0, 1)

    def forward(self, features_BChw: Tensor, class_index_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction (B, C, h, w), sum of the commitment terms, and q_0's input (B, L, W)."""
        position_LD = self.position()
        states = [self.projection(features_BChw.flatten(2).mT)]
        for layer in self.encoder:
            states.append(layer(states[-1], position_LD))
        top_BLD, commitment = _look_up(self.top, states[-1], class_index_B)
        inputs = [torch.cat([state, top_BLD], dim=-1) for state in states[:-1]]
        codes = []
        for level, level_input in zip(self.lower, inputs, strict=True):
            code_BLW, term = _look_up(level, level_input, class_index_B)
            codes.append(code_BLW)
            commitment = commitment + term
        position_LW = torch.cat([position_LD, position_LD], dim=-1)
        x_BLW = codes[-1]
        for layer, code in zip(self.decoder, reversed(codes), strict=True):
            x_BLW = layer(x_BLW, position_LW, code)
        x_BLW = self.norm(x_BLW)
        output = [self.experts[int(c)](x_LW) for x_LW, c in zip(x_BLW, class_index_B, strict=True)]
        return torch.stack(output).mT.unflatten(-1, self.grid_size), commitment, inputs[0]


def _look_up(codebooks: nn.Module, x_BLD: Tensor, class_index_B: Tensor) -> tuple[Tensor, Tensor]:
    assert isinstance(codebooks, nn.ModuleList)
    codes, terms = zip(
        *(codebooks[int(c)](x) for x, c in zip(x_BLD, class_index_B, strict=True)), strict=True
    )
    return torch.stack(codes), torch.stack(terms).mean()
