"""From a map on the feature grid to a map at image size, and from that to one score per image.

Shapes: B batch, h x w feature grid, H x W image, n values of a map, S shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hvqray.exact import exact_convolutions

COARSE_PIXELS = 48
"""Width of 3 locations of a grid of stride 16."""


def upsample_map(
    map_Bhw: Float[Tensor, "B h w"],
    image_size: int,
    *,
    at_centres: bool,
    smoothing_sigma: float = 0.0,
    pool_size: int = 1,
) -> Float[Tensor, "B H W"]:
    """Bilinear, float32; then smoothed (`gaussian_smooth`), then the mean of every window of `pool_size` x `pool_size` pixels.

    `at_centres`: every location is drawn at the centre of its cell, where a patch of the image lies.
    Otherwise the first and last are drawn at the image's corners, as a backbone's stages are brought onto their common grid.
    """
    # Maps are ranked pixel by pixel: bfloat16 would tie what differs.
    with torch.autocast(map_Bhw.device.type, enabled=False):
        # All three are linear, and act on rows as on columns: two products take a third to a tenth of the time of one after the
        # other, from grids much smaller than the image.
        rows_Hh, columns_Ww = (
            _drawn_alone(
                torch.eye(side, device=map_Bhw.device), image_size, at_centres, smoothing_sigma, pool_size
            )
            for side in map_Bhw.shape[1:]
        )
        return rows_Hh @ (map_Bhw.float() @ columns_Ww.mT)


def _drawn_alone(
    unit_hh: Tensor, image_size: int, at_centres: bool, smoothing_sigma: float, pool_size: int
) -> Float[Tensor, "H h"]:
    """What each location of a row alone gives each pixel."""
    row_h1H = F.interpolate(unit_hh[:, None], image_size, mode="linear", align_corners=not at_centres)
    row_h1H = gaussian_smooth(row_h1H, smoothing_sigma)
    return F.avg_pool1d(row_h1H, pool_size, 1)[:, 0].mT


def average_neighbourhood(x_BChw: Float[Tensor, "B C h w"], side: int) -> Float[Tensor, "B C h w"]:
    """Means over `side` x `side` locations (an odd number), as far as they lie on the grid; float32."""
    x_BChw = x_BChw.float()
    if side == 1:
        return x_BChw
    # With the channels last pooling takes a quarter of the time, the copy included, and gives the same to the bit.
    x_BChw = x_BChw.contiguous(memory_format=torch.channels_last)
    return F.avg_pool2d(x_BChw, side, 1, side // 2, count_include_pad=False)


def coarse_side(grid_stride: int, grid_side: int) -> int:
    """Locations along a side of the coarse scale's neighbourhood, an odd number.

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


def top_means(maps_BHW: Float[Tensor, "B H W"], top_fractions: Sequence[float]) -> Float[Tensor, "B S"]:
    """Image scores: for every share the mean of that share of a map's values, the highest ones, at least one; 0 takes the highest."""
    values_Bn = maps_BHW.flatten(1)
    counts = [max(1, round(fraction * values_Bn.shape[1])) for fraction in top_fractions]
    if max(counts) == 1:
        return values_Bn.amax(1, keepdim=True).expand(-1, len(counts))
    highest_Bn = _highest(values_Bn, max(counts))
    return torch.stack([highest_Bn[:, :count].mean(1) for count in counts], dim=1)


def _highest(values_Bn: Tensor, count: int) -> Tensor:
    """The `count` highest values of every row, the highest first."""
    if values_Bn.device.type != "cpu" or torch.compiler.is_exporting():
        return values_Bn.topk(count, dim=1).values
    # On CPUs topk takes six times as long.
    highest = np.partition(values_Bn.numpy(), -count, axis=1)[:, -count:]
    highest.sort(axis=1)
    return torch.from_numpy(highest[:, ::-1].copy())
