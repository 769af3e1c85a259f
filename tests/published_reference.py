"""A literal HVQ-Trans with the names of the published checkpoints, and docs/models.md's formulas, image by image.

It shares no code with the project: PyTorch's own attention, loops over images, and OT in float64 without any care.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = 8


class Codebook(nn.Module):
    """One class's codes of one level, (dim, K), as a trained checkpoint holds them."""

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.register_buffer("embed", torch.randn(dim, size))
        self.register_buffer("cluster_size", torch.rand(size) * 5)
        self.register_buffer("embed_avg", self.embed * self.cluster_size)


class Layer(nn.Module):
    def __init__(self, width: int, hidden: int, *, crosses: bool) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, HEADS)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        if crosses:
            self.multihead_attn = nn.MultiheadAttention(width, HEADS)
            self.norm3 = nn.LayerNorm(width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor, code: Tensor | None = None) -> Tensor:
        """(L, 1, width) of one image."""
        x = self.norm1(x + self.self_attn(x + position, x + position, x)[0])
        if code is not None:
            x = self.norm2(x + self.multihead_attn(x + position, code + position, code)[0])
            return self.norm3(x + self.linear2(F.relu(self.linear1(x))))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class Stack(nn.Module):
    def __init__(self, layers: list[Layer], norm: nn.Module | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        if norm is not None:
            self.norm = norm


class Positions(nn.Module):
    def __init__(self, grid: tuple[int, int], width: int) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(grid[0], width // 2)
        self.col_embed = nn.Embedding(grid[1], width // 2)

    def forward(self) -> Tensor:
        rows, columns = self.row_embed.num_embeddings, self.col_embed.num_embeddings
        tokens = [
            torch.cat([self.col_embed.weight[x], self.row_embed.weight[y]])
            for y in range(rows)
            for x in range(columns)
        ]
        return torch.stack(tokens)[:, None]


class PublishedStyle(nn.Module):
    """Random weights under the published names; `quantize_list_{i+1}` is level q_i, the last one the top."""

    def __init__(
        self,
        *,
        channels: int = 12,
        width: int = 16,
        depth: int = 4,
        hidden: int = 24,
        codes: int = 8,
        classes: int = 3,
        grid: tuple[int, int] = (3, 3),
    ) -> None:
        super().__init__()
        self.depth, self.codes = depth, codes
        self.quantize_conv_t = nn.Conv2d(channels, width, 1)
        for level in range(depth + 1):
            dim = width if level == depth else 2 * width
            books = nn.ModuleList(Codebook(dim, codes) for _ in range(classes))
            setattr(self, f"quantize_list_{level + 1}", books)
        self.encoder = Stack([Layer(width, hidden, crosses=False) for _ in range(depth)], None)
        self.decoder = Stack(
            [Layer(2 * width, hidden, crosses=True) for _ in range(depth)], nn.LayerNorm(2 * width)
        )
        self.pos_embed = Positions(grid, width)
        self.input_proj = nn.Linear(channels, width)
        self.output_proj_list = nn.ModuleList(nn.Linear(2 * width, channels) for _ in range(classes))
        for parameter in self.parameters():  # biases and norms too, so that a lost one shows
            nn.init.normal_(parameter, std=0.4)

    def quantize(self, level: int, label: int, x: Tensor) -> Tensor:
        book = getattr(self, f"quantize_list_{level + 1}")[label].embed
        return torch.stack([book[:, ((book - token[0][:, None]) ** 2).sum(0).argmin()][None] for token in x])

    def transport(self, label: int, x: Tensor) -> Tensor:
        """sum_k (1 - cos(x, c_k)) p_k with p = softmax_k(x . c_k / K), (L,), in float64."""
        book = self.quantize_list_1[label].embed.double()
        costs = []
        for token in x[:, 0].double():
            exponents = torch.stack([(token @ code / self.codes).exp() for code in book.T])
            cosines = torch.stack([token @ code / (token.norm() * code.norm()) for code in book.T])
            costs.append(((1 - cosines) * exponents / exponents.sum()).sum())
        return torch.stack(costs).float()

    @torch.no_grad()
    def map_of(self, features_Chw: Tensor, label: int, *, ot_weight: float = 80.0) -> Tensor:
        """The anomaly map of one image at 16 times its grid, (H, W)."""
        channels, height, width = features_Chw.shape
        position = self.pos_embed()
        states = [self.quantize_conv_t(features_Chw[None])[0].flatten(1).T[:, None]]
        for layer in self.encoder.layers:
            states.append(layer(states[-1], position))
        top = self.quantize(self.depth, label, states[-1])
        inputs = [torch.cat([state, top], dim=2) for state in states[:-1]]
        codes = [self.quantize(i, label, x) for i, x in enumerate(inputs)]
        out, twice = codes[-1], torch.cat([position, position], dim=2)
        for layer, code in zip(self.decoder.layers, reversed(codes), strict=True):
            out = layer(out, twice, code)
        rebuilt = self.output_proj_list[label](self.decoder.norm(out))[:, 0].T.reshape(
            channels, height, width
        )
        error = ((rebuilt - features_Chw) ** 2).sum(0).sqrt()
        error = error + ot_weight * self.transport(label, inputs[0]).reshape(height, width)
        return F.interpolate(error[None, None], scale_factor=16, mode="bilinear", align_corners=True)[0, 0]


def published_state(model: nn.Module) -> dict[str, Tensor]:
    """Its tensors as DDP names them."""
    return {f"module.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
