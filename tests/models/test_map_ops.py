"""Map operations against scipy and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, uniform_filter

from hvqray.models.map_ops import coarse_side, gaussian_smooth, pooled_score, upsample_map


def test_upsampling_keeps_corners_and_is_linear_between() -> None:
    map_Bhw = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    expected = torch.linspace(0, 1, 5)[None] + 2 * torch.linspace(0, 1, 5)[:, None]
    torch.testing.assert_close(upsample_map(map_Bhw, 5, at_centres=False)[0], expected)


@pytest.mark.parametrize(("at_centres", "centre"), [(True, 20.5), (False, 391 / 27)])
def test_a_patch_is_drawn_at_its_centre_and_a_stage_corner_to_corner(at_centres: bool, centre: float) -> None:
    # The grid of a ViT with patches of 14 pixels: patch 1 is of pixels 14 to 27.
    map_Bhw = torch.zeros(1, 28, 28)
    map_Bhw[0, 1, 1] = 1
    map_HW = upsample_map(map_Bhw, 392, at_centres=at_centres)[0]
    for rows in (map_HW.sum(0), map_HW.sum(1)):
        found = (rows * torch.arange(392)).sum() / rows.sum()
        assert found.item() == pytest.approx(centre, abs=0.3)


@pytest.mark.parametrize("sigma", [0.7, 4.0, 11.0])
def test_gaussian_smoothing_is_scipys(sigma: float) -> None:
    maps = np.random.default_rng(0).normal(size=(2, 33, 40)).astype(np.float32)
    # scipy rounds the cut of 4 sigma to the nearest pixel, this rounds it up.
    radius = int(np.ceil(4 * sigma))
    expected = [gaussian_filter(m.astype(float), sigma, mode="nearest", radius=radius) for m in maps]
    np.testing.assert_allclose(gaussian_smooth(torch.from_numpy(maps), sigma), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("grid_stride", "grid_side", "side"),
    [(32, 7, 3), (16, 14, 3), (14, 28, 3), (8, 28, 7), (4, 56, 13), (8, 12, 5), (8, 8, 3), (8, 2, 3)],
)
def test_what_is_seen_coarsely_is_about_as_wide_on_every_grid(
    grid_stride: int, grid_side: int, side: int
) -> None:
    assert coarse_side(grid_stride, grid_side) == side


def test_no_smoothing() -> None:
    maps = torch.randn(1, 4, 4)
    assert torch.equal(gaussian_smooth(maps, 0.0), maps)


@pytest.mark.parametrize(
    ("pool_size", "top_fraction"),
    [(1, 0.0), (5, 0.0), (5, 0.1), (24, 0.0), (16, 0.0), (7, 0.3), (8, 1.0), (5, 1e-6)],
)
def test_score_is_the_top_of_the_pooled_map(pool_size: int, top_fraction: float) -> None:
    maps = np.random.default_rng(0).normal(size=(3, 24, 24))
    before, after = pool_size // 2, (pool_size - 1) // 2
    for i, score in enumerate(pooled_score(torch.from_numpy(maps).float(), pool_size, top_fraction)):
        whole_windows = slice(before, 24 - after)
        pooled = np.sort(uniform_filter(maps[i], pool_size)[whole_windows, whole_windows].ravel())
        num_top = max(1, round(top_fraction * pooled.size))
        assert score.item() == pytest.approx(pooled[-num_top:].mean(), abs=1e-5)
