"""Structural similarity of two images, per pixel.

Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP 2004, formula 13, with
the paper's window: an 11 x 11 Gaussian of standard deviation 1.5 pixels.

Shapes: B batch, C colour channels, H x W image.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

RADIUS = 5
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2


def ssim_map(x_BCHW: Float[Tensor, "B C H W"], y_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B H W"]:
    """SSIM at every pixel of images in [0, 1], mean over the colour channels: in [-1, 1], 1 where they agree.

    Borders are mirrored, so the sides must be at least 5 pixels long. Computed in float32 whatever the autocast:
    its variances are small differences of large numbers.
    """
    with torch.autocast(x_BCHW.device.type, enabled=False):
        x, y = x_BCHW.float(), y_BCHW.float()
        rows_HH, columns_WW = (_blur_matrix(size, x.device) for size in x.shape[-2:])
        moments = torch.stack([x, y, x * x, y * y, x * y])
        mean_x, mean_y, mean_xx, mean_yy, mean_xy = rows_HH @ moments @ columns_WW.T
        luminance = (2 * mean_x * mean_y + C1) / (mean_x.square() + mean_y.square() + C1)
        variance_x, variance_y = mean_xx - mean_x.square(), mean_yy - mean_y.square()
        structure = (2 * (mean_xy - mean_x * mean_y) + C2) / (variance_x + variance_y + C2)
        return (luminance * structure).mean(1)


def _blur_matrix(size: int, device: torch.device) -> Float[Tensor, "S S"]:
    """The matrix that blurs a column of `size` pixels.

    As two products with such matrices the blur is 20 to 40 times faster on a CPU than as convolutions of one channel.
    """
    offset_n = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float32, device=device)
    kernel_n = torch.exp(-0.5 * (offset_n / SIGMA).square())
    kernel_n /= kernel_n.sum()
    pixel_P = torch.arange(-RADIUS, size + RADIUS, device=device)
    mirrored_P = torch.where(pixel_P < 0, -1 - pixel_P, pixel_P)
    mirrored_P = torch.where(mirrored_P >= size, 2 * size - 1 - mirrored_P, mirrored_P)
    windows_Sn = mirrored_P.unfold(0, 2 * RADIUS + 1, 1)
    return torch.zeros(size, size, device=device).scatter_add_(1, windows_Sn, kernel_n.expand(size, -1))
