"""What SQUAD's autoencoder is built of: residual blocks, two hierarchies of codes, two decoder heads.

There is no normalisation layer, as in VQ-VAE (arXiv 1711.00937) and VQ-VAE-2 (arXiv 1906.00446): a defect must not change
how the rest of its image is encoded, and results must not depend on how a batch is split over processes.

Shapes: B batch, C feature channels, D width, h x w feature grid, L = h * w tokens, T x T reconstructed image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hvqray.config.model_sections import SquadConfig
from hvqray.models.levels import FsqLevel, build_level
from hvqray.quantizers.vq import QuantizerOutput, VectorQuantizer


class ResidualBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))) with half the width inside: VQ-VAE's block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width // 2, 3, padding=1)
        self.expand = nn.Conv2d(width // 2, width, 1)

    def forward(self, x_BDhw: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        return x_BDhw + self.expand(F.relu(self.conv(F.relu(x_BDhw))))


def residual_stack(width: int, num_blocks: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width) for _ in range(num_blocks)))


class Quantized(NamedTuple):
    """What a hierarchy makes of latents."""

    decoded_BDhw: Tensor
    """What the codes of all levels say together, at the latents' grid."""
    levels: dict[str, QuantizerOutput]
    """Codes (B, L_i) of each level, from the top."""


class CodeHierarchy(nn.Module):
    """Levels of codes, shared by all classes, from the top (coarsest or first): `top`, `q{N-2}`, ..., `q0`."""

    def __init__(self, config: SquadConfig) -> None:
        super().__init__()
        depth = config.hierarchy_depth
        names = ["top", *(f"q{i}" for i in reversed(range(depth - 1)))]
        self.levels = nn.ModuleDict(
            {
                name: build_level(
                    config, config.quantizer, config.codebook_size, num_classes=1, width=config.width
                )
                for name in names
            }
        )

    def codebook_sizes(self) -> dict[str, int]:
        """Codes per level, from the top; nothing without a quantiser."""
        return {
            name: level.codebook_size
            for name, level in self.levels.items()
            if isinstance(level, VectorQuantizer | FsqLevel)
        }

    def vector_quantizers(self) -> list[VectorQuantizer]:
        """The levels that learn codes, from the top; none without `quantizer: vq`."""
        return [level for level in self.levels.values() if isinstance(level, VectorQuantizer)]

    def _quantize(self, name: str, x_BDhw: Tensor) -> tuple[Tensor, QuantizerOutput]:
        """Codes of `x_BDhw` back on its grid, and all that the level gave."""
        x_BLD = x_BDhw.flatten(2).mT
        shared_B = torch.zeros(x_BLD.shape[0], dtype=torch.int64, device=x_BLD.device)
        output = self.levels[name](x_BLD, shared_B)
        return output.quantized_BLD.mT.unflatten(-1, x_BDhw.shape[2:]), output


class ResolutionHierarchy(CodeHierarchy):
    """Grids of codes, each half the size of the next finer one; coarse codes condition finer ones (VQ-VAE-2)."""

    def __init__(self, config: SquadConfig) -> None:
        super().__init__(config)
        width, depth = config.width, config.hierarchy_depth
        self.down = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(depth - 1))
        self.merge = nn.ModuleDict({name: nn.Conv2d(2 * width, width, 1) for name in list(self.levels)[1:]})
        self.decoder = nn.ModuleDict({name: ResidualBlock(width) for name in self.levels})

    def forward(self, z_BDhw: Float[Tensor, "B D h w"]) -> Quantized:
        states = [z_BDhw]
        for down in self.down:
            states.append(down(F.relu(states[-1])))
        outputs = {}
        code, outputs["top"] = self._quantize("top", states.pop())
        decoded = self.decoder["top"](code)
        for name, merge in self.merge.items():
            state = states.pop()
            context = F.interpolate(decoded, size=state.shape[2:], mode="nearest")
            code, outputs[name] = self._quantize(name, merge(torch.cat([state, context], dim=1)))
            decoded = self.decoder[name](code + context)
        return Quantized(decoded, outputs)


class ResidualHierarchy(CodeHierarchy):
    """One grid; each level quantises what the levels before it left over, and the codes are summed."""

    def forward(self, z_BDhw: Float[Tensor, "B D h w"]) -> Quantized:
        rest, decoded = z_BDhw, torch.zeros_like(z_BDhw)
        outputs = {}
        for name, level in self.levels.items():
            code, outputs[name] = self._quantize(name, rest)
            # A code that passes gradients straight through has the gradient of `rest`: taken off with it, nothing would be
            # left for the commitments of later levels; added by every level, the latents would get it many times.
            value = code.detach() if isinstance(level, VectorQuantizer) else code
            rest, decoded = rest - value, decoded + (code if name == "top" else value)
        return Quantized(decoded, outputs)


class ImageHead(nn.Module):
    """From the decoded codes to an RGB image in [-1, 1]: each block doubles the side and halves the channels."""

    def __init__(self, width: int, image_width: int, *, grid_side: int, image_side: int) -> None:
        super().__init__()
        sides = []
        while grid_side * 2 < image_side:
            grid_side *= 2
            sides.append(grid_side)
        self.sides = [*sides, image_side]
        widths = [min(width, image_width * 2**i) for i in reversed(range(len(self.sides)))]
        self.reduce = nn.ModuleList(
            nn.Conv2d(a, b, 1) for a, b in zip([width, *widths], widths, strict=False)
        )
        self.blocks = nn.ModuleList(nn.Conv2d(b, b, 3, padding=1) for b in widths)
        self.last = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, decoded_BDhw: Float[Tensor, "B D h w"]) -> Float[Tensor, "B 3 T T"]:
        x = decoded_BDhw
        for side, reduce, block in zip(self.sides, self.reduce, self.blocks, strict=True):
            # Reducing the channels before enlarging the grid costs a quarter of the other order.
            x = F.interpolate(reduce(F.relu(x)), size=(side, side), mode="nearest")
            x = x + block(F.relu(x))
        return torch.tanh(self.last(F.relu(x)).float())


class Reconstruction(NamedTuple):
    """What the generator gives back."""

    features_BChw: Tensor
    """float32."""
    image_B3TT: Tensor | None
    """float32 in [-1, 1]; None without an image head."""
    quantized: Quantized


class Generator(nn.Module):
    """The autoencoder: features to latents, to codes, to features and image."""

    def __init__(
        self, config: SquadConfig, *, feature_channels: int, grid_side: int, image_side: int
    ) -> None:
        super().__init__()
        width, num_blocks = config.width, config.num_residual_blocks
        self.encoder = nn.Sequential(nn.Conv2d(feature_channels, width, 1), residual_stack(width, num_blocks))
        self.hierarchy = (
            ResolutionHierarchy(config) if config.hierarchy == "resolutions" else ResidualHierarchy(config)
        )
        self.feature_head = nn.Sequential(
            residual_stack(width, num_blocks), nn.ReLU(), nn.Conv2d(width, feature_channels, 1)
        )
        self.image_head = (
            ImageHead(width, config.image_width, grid_side=grid_side, image_side=image_side)
            if config.image_head
            else None
        )

    def forward(self, features_BChw: Float[Tensor, "B C h w"]) -> Reconstruction:
        quantized = self.quantize(features_BChw)
        features = self.feature_head(quantized.decoded_BDhw).float()
        image = self.image_head(quantized.decoded_BDhw) if self.image_head is not None else None
        return Reconstruction(features, image, quantized)

    def reconstruct_features(self, features_BChw: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """The features alone, float32."""
        features: Tensor = self.feature_head(self.quantize(features_BChw).decoded_BDhw).float()
        return features

    def quantize(self, features_BChw: Float[Tensor, "B C h w"]) -> Quantized:
        return self.hierarchy(self.encoder(features_BChw))
