"""Synthetic defects on photographs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from hvqray.data.synthetic_defects import draw_synthetic_defect


def photograph(kind: str) -> np.ndarray:
    rng = np.random.default_rng(5)
    if kind == "texture":
        noise = ndimage.gaussian_filter(rng.standard_normal((96, 96, 3)), (2, 2, 0))
        return np.clip(128 + 300 * noise, 0, 255).astype(np.uint8)
    return np.full((96, 96, 3), 0 if kind == "black" else 255, np.uint8)


@pytest.mark.parametrize("kind", ["texture", "black", "white"])
def test_mask_is_exactly_where_pixels_change(kind: str) -> None:
    image = photograph(kind)
    original = image.copy()
    areas = []
    for seed in range(30):
        drawn, mask = draw_synthetic_defect(image, seed)
        assert drawn.shape == image.shape
        assert drawn.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 1}
        difference = np.abs(drawn.astype(int) - image).max(axis=2)
        assert difference[mask == 0].max() == 0
        if kind != "black" or difference.any():
            areas.append(mask.mean())
    np.testing.assert_array_equal(image, original)
    assert len(areas) >= 25
    assert max(areas) < 0.2
    assert np.std(areas) > 0.002


def test_seed_decides() -> None:
    image = photograph("texture")
    first, again, other = (draw_synthetic_defect(image, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).any()


def test_defects_show() -> None:
    image = photograph("texture")
    for seed in range(30):
        drawn, mask = draw_synthetic_defect(image, seed)
        difference = np.abs(drawn.astype(float) - image).max(axis=2)
        assert difference[mask == 1].mean() >= 8
