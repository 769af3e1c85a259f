"""A PatchGAN discriminator and how its say is weighed against the reconstruction's.

Patches: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", arXiv 1611.07004. Spectral norm:
Miyato et al., arXiv 1802.05957. Adaptive weight: Esser et al., "Taming Transformers" (VQGAN), arXiv 2012.09841, formula 7.

Shapes: B batch, T x T image, t x t grid of patches, N parameters of the last layer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

MAX_ADAPTIVE_WEIGHT = 1e4
NORM_EPS = 1e-4


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of an image, 26 pixels wide, 4 pixels apart: positive for real, negative for made.

    Spectral norm takes one power iteration per forward pass in training mode; it depends on the weights alone, so
    ranks with equal weights stay equal.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                spectral_norm(nn.Conv2d(3, width, 4, stride=2, padding=1)),
                spectral_norm(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)),
                spectral_norm(nn.Conv2d(2 * width, 4 * width, 3, padding=1)),
            ]
        )
        # No bias: while no patch is judged beyond the hinge its gradient is exactly 0, so that rounding alone would
        # decide its sign, which Adam makes a whole step of, another one on every rank and machine.
        self.judge = spectral_norm(nn.Conv2d(4 * width, 1, 3, padding=1, bias=False))

    def features(self, image_B3TT: Float[Tensor, "B 3 T T"]) -> list[Tensor]:
        """Activations of every stage, (B, channels, side, side)."""
        x, stages = image_B3TT, []
        for stage in self.stages:
            x = F.leaky_relu(stage(x), 0.2)
            stages.append(x)
        return stages

    def forward(self, image_B3TT: Float[Tensor, "B 3 T T"]) -> Float[Tensor, "B t t"]:
        return self.judge(self.features(image_B3TT)[-1])[:, 0].float()


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss: mean(relu(1 - real)) / 2 + mean(relu(1 + fake)) / 2."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def adaptive_weight(
    image_gradient: Tensor,
    adversarial_gradient: Tensor,
    *,
    num_images: int,
    all_reduce_sum_: Callable[[Tensor], Tensor],
) -> Tensor:
    """||image gradient|| / (||adversarial gradient|| + 1e-4), at most 1e4: both terms pull at the last layer alike.

    The gradients are those of means over this rank's `num_images`; the norms are of means over all ranks' images, so
    that the ranks agree.
    """
    gradient_2N = torch.stack([image_gradient.flatten(), adversarial_gradient.flatten()]).float()
    count = gradient_2N.new_full((2, 1), num_images)
    total = all_reduce_sum_(torch.cat([gradient_2N * num_images, count], dim=1))
    image_norm, adversarial_norm = (total[:, :-1] / total[:, -1:]).norm(dim=1)
    return (image_norm / (adversarial_norm + NORM_EPS)).clamp(max=MAX_ADAPTIVE_WEIGHT)
