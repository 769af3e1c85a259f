"""From mask files to anomalous pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvqray.data.masks import load_mask, resize_mask
from hvqray.errors import InputError


def test_masks_are_anomalous_above_half_of_full_scale(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "m8.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "m8.png"), [[0, 0, 1, 1]])
    Image.fromarray(np.array([[0, 32000, 33000, 65535]], np.uint16)).save(tmp_path / "m16.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "m16.png"), [[0, 0, 1, 1]])
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "m1.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "m1.png"), [[0, 1]])


def test_mask_resizing_takes_the_nearest_pixel(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 2, (48, 80), np.uint8)
    Image.fromarray(mask * 255).save(tmp_path / "mask.png")
    rows, columns = (np.arange(32) + 0.5) * 48 / 32, (np.arange(32) + 0.5) * 80 / 32
    np.testing.assert_array_equal(
        load_mask(tmp_path / "mask.png", 32), mask[rows.astype(int)][:, columns.astype(int)]
    )


def test_a_mask_that_would_vanish_marks_each_pixel_that_it_touches() -> None:
    """The smallest of squares with no centre of a pixel in it, over the border of two."""
    mask = np.zeros((100, 200), np.uint8)
    mask[9:11, 150] = 1
    small, is_below_a_pixel = resize_mask(mask, 10)
    assert is_below_a_pixel
    assert [tuple(place) for place in np.argwhere(small)] == [(0, 7), (1, 7)]
    assert small.dtype == np.uint8
    assert small.max() == 1
    # Beside a region that is left all is as the published protocol has it.
    mask[50:70] = 1
    small, is_below_a_pixel = resize_mask(mask, 10)
    assert not is_below_a_pixel
    np.testing.assert_array_equal(np.flatnonzero(small.any(axis=1)), [5, 6])


@pytest.mark.parametrize("shape", [(7, 300), (300, 7), (97, 1000), (33, 31)])
def test_no_mask_vanishes(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = np.zeros(shape, np.uint8)
        mask[rng.integers(shape[0]), rng.integers(shape[1])] = 1
        assert resize_mask(mask, 32)[0].any()
    assert not resize_mask(np.zeros(shape, np.uint8), 32)[0].any()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.array([[0, 1]], np.uint8), "its largest value is 1 of 255, and a pixel is anomalous above 127"),
        (
            np.array([[0, 1]], np.uint16),
            "its largest value is 1 of 65535, and a pixel is anomalous above 32767",
        ),
        (np.array([[0, 255]], np.uint16), "its largest value is 255 of 65535"),
        (np.array([[0, 1]], np.int32), "its largest value is 1 of 65535"),
    ],
)
def test_a_mask_below_half_of_full_scale_is_refused(tmp_path: Path, values: np.ndarray, told: str) -> None:
    """By its stored values: in 8 bits those of 16 are 0 up to 128."""
    Image.fromarray(values).save(tmp_path / "mask.tif")
    with pytest.raises(InputError, match=rf"mask\.tif: {told}"):
        load_mask(tmp_path / "mask.tif")
