"""Features scaled to zero mean and unit variance per channel, as measured on the training images.

Shapes: B batch, C feature channels, h x w feature grid.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hvqray.models.batch import Batch
from hvqray.models.random_stream import RandomStream

CONSTANT_STD = 1e-6
"""A channel that varies less than this is left unscaled: dividing by its deviation would only magnify rounding."""


class FeatureStandardizer(nn.Module):
    """(x - mean) / std per channel; the identity when not `enabled`. Always float32, whatever the autocast."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, channels: int, *, enabled: bool = True) -> None:
        super().__init__()
        self.enabled = enabled
        self.register_buffer("mean_C", torch.zeros(channels))
        self.register_buffer("std_C", torch.ones(channels))

    @torch.no_grad()
    def fit(self, batches: Iterable[Batch]) -> None:
        """Measure mean and standard deviation over all images and locations of `batches`, in float64."""
        count = 0
        total_C = torch.zeros_like(self.mean_C, dtype=torch.float64)
        square_C = torch.zeros_like(total_C)
        for batch in batches:
            x_BChw = batch.features_BChw.double()
            count += x_BChw.numel() // x_BChw.shape[1]
            total_C += x_BChw.sum((0, 2, 3))
            square_C += x_BChw.square().sum((0, 2, 3))
        assert count, "there are no images to measure features on"
        mean_C = total_C / count
        std_C = (square_C / count - mean_C.square()).clamp(min=0).sqrt()
        self.mean_C.copy_(mean_C)
        self.std_C.copy_(torch.where(std_C > CONSTANT_STD, std_C, 1.0))

    def forward(self, features_BChw: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        if not self.enabled:
            return features_BChw.float()
        return (features_BChw.float() - self.mean_C[:, None, None]) / self.std_C[:, None, None]

    def add_noise(
        self, standardized_BChw: Float[Tensor, "B C h w"], sigma: float, random: RandomStream
    ) -> Float[Tensor, "B C h w"]:
        """Add Gaussian noise of `sigma` times the channel's own deviation to what `forward` gave."""
        noise_BChw = random.normal(standardized_BChw)
        if not self.enabled:
            noise_BChw = noise_BChw * self.std_C[:, None, None]
        return standardized_BChw + sigma * noise_BChw
