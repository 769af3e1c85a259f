"""Map operations against scipy and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter, uniform_filter

from hvqray.models.map_ops import (
    average_neighbourhood,
    coarse_side,
    gaussian_smooth,
    top_means,
    upsample_map,
)


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


@pytest.mark.parametrize("at_centres", [True, False])
@pytest.mark.parametrize("grid", [(1, 1), (4, 6), (14, 14), (24, 24), (30, 24)])
def test_smoothing_and_windows_are_of_the_map_at_image_size(grid: tuple[int, int], at_centres: bool) -> None:
    map_Bhw = torch.from_numpy(np.random.default_rng(0).normal(size=(3, *grid))).float()
    drawn = F.interpolate(map_Bhw[:, None].double(), (24, 24), mode="bilinear", align_corners=not at_centres)
    for sigma, pool_size in ((0.0, 1), (0.0, 16), (0.0, 24), (1.5, 1), (4.0, 5)):
        radius, windows = int(np.ceil(4 * sigma)), slice(pool_size // 2, 24 - (pool_size - 1) // 2)
        for i, expected in enumerate(drawn[:, 0].numpy()):
            if sigma:
                expected = gaussian_filter(expected, sigma, mode="nearest", radius=radius)
            expected = uniform_filter(expected, pool_size)[windows, windows]
            found = upsample_map(
                map_Bhw, 24, at_centres=at_centres, smoothing_sigma=sigma, pool_size=pool_size
            )
            np.testing.assert_allclose(found[i], expected, atol=1e-5)


def test_maps_are_drawn_in_float32_within_an_autocast() -> None:
    map_Bhw = torch.rand(2, 7, 7)
    expected = upsample_map(map_Bhw, 24, at_centres=False, smoothing_sigma=2.0, pool_size=3)
    with torch.autocast("cpu", torch.bfloat16):
        found = upsample_map(map_Bhw, 24, at_centres=False, smoothing_sigma=2.0, pool_size=3)
    assert torch.equal(found, expected)


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


@pytest.mark.parametrize("fractions", [[0.0], [1e-6, 0.0], [0.3, 0.0, 0.01], [1.0, 0.5]])
def test_scores_are_means_of_the_highest_values(fractions: list[float]) -> None:
    maps = np.random.default_rng(0).normal(size=(3, 20, 24)).astype(np.float32)
    scores = top_means(torch.from_numpy(maps), fractions)
    for i, values in enumerate(np.sort(maps.reshape(3, -1).astype(float), axis=1)):
        expected = [values[-max(1, round(fraction * 480)) :].mean() for fraction in fractions]
        np.testing.assert_allclose(scores[i], expected, atol=1e-6)


@pytest.mark.parametrize("case", ["all differ", "ties", "a location is not a number"])
def test_scores_are_to_the_bit_what_a_full_sort_gives(case: str) -> None:
    maps = torch.randn(4, 30, 31, generator=torch.Generator().manual_seed(0))
    if case == "ties":
        maps = maps.round()
    elif case != "all differ":
        maps[2, 3, 4] = torch.nan
    before, sorted_values = maps.clone(), maps.flatten(1).sort(1, descending=True).values
    for fractions in ([0.0, 0.01, 0.03, 0.1], [0.5, 1.0]):
        counts = [max(1, round(fraction * 930)) for fraction in fractions]
        expected = torch.stack([sorted_values[:, : max(counts)][:, :n].mean(1) for n in counts], dim=1)
        torch.testing.assert_close(top_means(maps, fractions), expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(maps, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("side", [1, 3, 7, 11])
def test_neighbourhoods_are_averaged_as_far_as_they_lie_on_the_grid(side: int) -> None:
    x_BChw = torch.randn(2, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    expected = F.avg_pool2d(x_BChw, side, 1, side // 2, count_include_pad=False)
    with torch.autocast("cpu", torch.bfloat16):
        found = average_neighbourhood(x_BChw, side)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
