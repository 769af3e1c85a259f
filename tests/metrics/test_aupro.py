"""AUPRO equals its definition, followed word by word."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label

from hvqray.metrics.aupro import MaskRegions, aupro
from hvqray.metrics.ranking import rank_scores


def literal_aupro(maps: np.ndarray, masks: np.ndarray, max_fpr: float = 0.3) -> float:
    """Lower the threshold over every score there is, note FPR and mean overlap, and integrate the polygon up to `max_fpr`."""
    regions = []
    for i, mask in enumerate(masks):
        components = label(mask, connectivity=2)
        for k in range(1, components.max() + 1):
            region = np.zeros(masks.shape, dtype=bool)
            region[i] = components == k
            regions.append(region)
    normal = ~masks.astype(bool)
    fpr, pro = [0.0], [0.0]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        called = maps >= threshold
        fpr.append((called & normal).sum() / normal.sum())
        pro.append(float(np.mean([(called & region).sum() / region.sum() for region in regions])))
    area = 0.0
    for x0, x1, y0, y1 in zip(fpr, fpr[1:], pro, pro[1:], strict=False):
        if x0 >= max_fpr:
            break
        if x1 > max_fpr:
            x1, y1 = max_fpr, y0 + (y1 - y0) * (max_fpr - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / max_fpr


def fast_aupro(maps: np.ndarray, masks: np.ndarray) -> float:
    regions = MaskRegions.from_masks(masks)
    ranking = rank_scores(maps.reshape(-1), regions.is_anomalous())
    assert ranking is not None
    return aupro(ranking, regions)


@st.composite
def maps_and_masks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Small maps of few distinct values (many ties), and masks of scattered regions."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 3)), draw(st.integers(2, 7)), draw(st.integers(2, 7)))
    masks = (rng.random(shape) < draw(st.sampled_from([0.05, 0.3, 0.7, 1.0]))).astype(int)
    masks[0, 0, :2] = 0, 1
    num_values = draw(st.sampled_from([1, 2, 3, 8, 1000]))
    maps = rng.integers(0, num_values, shape) + draw(st.sampled_from([0, num_values // 2])) * masks
    return maps.astype(np.float32), masks.astype(np.uint8)


@settings(max_examples=300, deadline=None)
@given(maps_and_masks())
def test_equals_the_definition(case: tuple[np.ndarray, np.ndarray]) -> None:
    maps, masks = case
    assert fast_aupro(maps, masks) == pytest.approx(literal_aupro(maps, masks), abs=1e-12)


def test_perfect_maps_give_exactly_one() -> None:
    rng = np.random.default_rng(0)
    masks = (rng.random((4, 30, 30)) < 0.2).astype(np.uint8)
    assert fast_aupro(masks.astype(np.float32), masks) == 1.0


def test_constant_maps_give_the_area_below_the_diagonal() -> None:
    masks = np.zeros((2, 8, 8), dtype=np.uint8)
    masks[0, 2:4, 2:4] = 1
    assert fast_aupro(np.full(masks.shape, 3, dtype=np.float32), masks) == pytest.approx(0.15)


def test_small_regions_count_as_much_as_large_ones() -> None:
    masks = np.zeros((1, 20, 20), dtype=np.uint8)
    masks[0, :10] = 1
    masks[0, 15, 15] = 1
    only_large = masks.astype(np.float32)
    only_large[0, 15, 15] = -1
    assert fast_aupro(only_large, masks) == pytest.approx(0.5)


def test_regions_touching_at_a_corner_are_one_and_images_are_apart() -> None:
    masks = np.zeros((3, 4, 4), dtype=np.uint8)
    masks[0, 0, 0] = masks[0, 1, 1] = 1
    masks[0, 3, 3] = 1
    masks[2, 0, 0] = 1
    regions = MaskRegions.from_masks(masks)
    np.testing.assert_array_equal(regions.area_R, [2, 1, 1])
    np.testing.assert_array_equal(regions.region_P, [0, 0, 1, 2])
    np.testing.assert_array_equal(regions.is_anomalous().reshape(masks.shape), masks.astype(bool))


def test_masks_without_regions() -> None:
    regions = MaskRegions.from_masks(np.zeros((2, 4, 4), dtype=np.uint8))
    assert len(regions.area_R) == len(regions.pixel_P) == 0
    assert not regions.is_anomalous().any()
