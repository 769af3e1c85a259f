"""From a map on the feature grid to a map at image size, and from that to one score per image.

Shapes: B batch, h x w feature grid, H x W image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hvqray.exact import exact_convolutions

COARSE_PIXELS = 48
"""Width of 3 locations of a grid of stride 16."""


def upsample_map(
    map_Bhw: Float[Tensor, "B h w"], image_size: int, *, at_centres: bool
) -> Float[Tensor, "B H W"]:
    """Bilinear. `at_centres`: every location is drawn at the centre of its cell, where a patch of the image lies.

    Otherwise the first and last are drawn at the image's corners, as a backbone's stages are brought onto their common grid.
    """
    size = (image_size, image_size)
    maps_B1HW = F.interpolate(map_Bhw[:, None].float(), size, mode="bilinear", align_corners=not at_centres)
    return maps_B1HW[:, 0]


def average_neighbourhood(x_BChw: Float[Tensor, "B C h w"], side: int) -> Float[Tensor, "B C h w"]:
    """Means over `side` x `side` locations (an odd number), as far as they lie on the grid; float32."""
    x_BChw = x_BChw.float()
    return F.avg_pool2d(x_BChw, side, 1, side // 2, count_include_pad=False) if side > 1 else x_BChw


def coarse_side(grid_stride: int, grid_side: int) -> int:
    """Locations along a side of the neighbourhood that is seen coarsely, an odd number.

    3 at 14 and 16 pixels a location, and on other grids as many as have about that width; at most half of the grid, and 3 at least.
    """
    half_side = min(COARSE_PIXELS // grid_stride, grid_side // 2 - 1) // 2
    return 2 * max(1, half_side) + 1


def gaussian_smooth(maps_BHW: Float[Tensor, "B H W"], sigma: float) -> Float[Tensor, "B H W"]:
    """Gaussian filter of standard deviation `sigma` pixels, cut at 4 sigma, edges repeated; 0 changes nothing."""
    if sigma == 0:
        return maps_BHW
    radius = math.ceil(4 * sigma)
    offset_n = torch.arange(-radius, radius + 1, dtype=torch.float32, device=maps_BHW.device)
    kernel_n = torch.exp(-0.5 * (offset_n / sigma).square())
    kernel_n /= kernel_n.sum()
    padded = F.pad(maps_BHW[:, None].float(), (radius,) * 4, mode="replicate")
    with exact_convolutions():
        columns_B1HW = F.conv2d(padded, kernel_n[None, None, :, None])
        return F.conv2d(columns_B1HW, kernel_n[None, None, None, :])[:, 0]


def pooled_scores(
    maps_BHW: Float[Tensor, "B H W"], pool_size: int, top_fractions: Sequence[float]
) -> Float[Tensor, "B S"]:
    """Image scores: for every share the mean of that share of the values after `pool_size` x `pool_size` average pooling of stride 1.

    The highest ones, at least one; a share of 0 takes the highest value.
    """
    sums_BHW = _window_sums(_window_sums(maps_BHW.float(), pool_size, dim=1), pool_size, dim=2)
    values_Bn = sums_BHW.flatten(1) / pool_size**2
    counts = [max(1, round(fraction * values_Bn.shape[1])) for fraction in top_fractions]
    if max(counts) == 1:
        return values_Bn.amax(1, keepdim=True).expand(-1, len(counts))
    highest_Bn = values_Bn.topk(max(counts), dim=1).values
    return torch.stack([highest_Bn[:, :count].mean(1) for count in counts], dim=1)


def pooled_score(
    maps_BHW: Float[Tensor, "B H W"], pool_size: int, top_fraction: float = 0.0
) -> Float[Tensor, " B"]:
    """`pooled_scores` of a single share."""
    return pooled_scores(maps_BHW, pool_size, [top_fraction])[:, 0]


def _window_sums(x: Tensor, size: int, dim: int) -> Tensor:
    """Sums over all windows of `size` along `dim`, put together from windows whose widths are powers of two.

    It takes some log2(size) additions, where PyTorch's pooling takes `size` and is not vectorised on CPUs.
    """
    num_windows = x.shape[dim] - size + 1
    total = torch.zeros_like(x.narrow(dim, 0, num_windows))
    start, width, sums = 0, 1, x
    while True:
        if size & width:
            total += sums.narrow(dim, start, num_windows)
            start += width
        if 2 * width > size:
            return total
        num_sums = sums.shape[dim] - width
        sums = sums.narrow(dim, 0, num_sums) + sums.narrow(dim, width, num_sums)
        width *= 2
