"""Decoding of every kind of image and mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvqray.data.dataset import Sample
from hvqray.data.images import load_image, load_sample
from hvqray.errors import InputError

GREY = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF"])
def test_grey_is_repeated_over_the_channels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"grey{suffix}"
    Image.fromarray(GREY).save(path)
    np.testing.assert_array_equal(load_image(path), np.stack([GREY] * 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deep{suffix}"
    Image.fromarray(GREY.astype(np.uint16) * 257).save(path)
    np.testing.assert_array_equal(load_image(path)[..., 0], GREY)


def test_1_bit_palette_and_alpha(tmp_path: Path) -> None:
    bits = Image.fromarray(GREY > 100)
    bits.save(tmp_path / "bits.png")
    np.testing.assert_array_equal(load_image(tmp_path / "bits.png")[..., 0], np.where(GREY > 100, 255, 0))
    colors = np.random.default_rng(0).choice([0, 255], (8, 8, 3)).astype(np.uint8)
    Image.fromarray(colors).convert("P", palette=Image.Palette.ADAPTIVE).save(
        tmp_path / "p.png", transparency=b"\x00\x80"
    )
    np.testing.assert_array_equal(load_image(tmp_path / "p.png"), colors)
    Image.fromarray(np.dstack([colors, np.full((8, 8), 7, np.uint8)])).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(load_image(tmp_path / "rgba.png"), colors)


def test_jpeg_is_resized_to_a_square(tmp_path: Path) -> None:
    Image.new("RGB", (50, 20), (200, 100, 50)).save(tmp_path / "flat.jpg", quality=95)
    image = load_image(tmp_path / "flat.jpg", 32)
    assert image.shape == (32, 32, 3)
    assert np.abs(image.astype(int) - (200, 100, 50)).max() <= 3


def test_resizing_is_bicubic_and_antialiased(tmp_path: Path) -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    Image.fromarray(stripes).save(tmp_path / "fine.png")
    assert np.abs(load_image(tmp_path / "fine.png", 8)[:, 1:-1].astype(int) - 127).max() <= 3
    edge = np.repeat(np.array([[60, 200]], np.uint8), 8, axis=1).repeat(16, axis=0)
    Image.fromarray(edge).save(tmp_path / "edge.png")
    larger = load_image(tmp_path / "edge.png", 48)
    assert larger.min() < 55, "bilinear would not overshoot"
    assert larger.max() > 205


def test_an_orientation_tag_is_not_applied(tmp_path: Path) -> None:
    """Masks are drawn on the stored pixels."""
    turned = Image.Exif()
    turned[0x0112] = 6
    half_bright = np.zeros((20, 50), np.uint8)
    half_bright[:, 25:] = 255
    Image.fromarray(half_bright).save(tmp_path / "turned.jpg", exif=turned, quality=100)
    image = load_image(tmp_path / "turned.jpg")
    assert image.shape == (20, 50, 3)
    assert np.abs(image[..., 0].astype(int) - half_bright).max() < 10


def test_webp(tmp_path: Path) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(colors).save(tmp_path / "a.webp", lossless=True)
    np.testing.assert_array_equal(load_image(tmp_path / "a.webp"), colors)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_unreadable_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.png: not a readable image"):
        load_image(tmp_path / "bad.png")


def test_truncated_image_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:2000])
    with pytest.raises(InputError, match=r"cut\.jpg: not a readable image"):
        load_image(tmp_path / "cut.jpg")


def test_float_image_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(InputError, match="no known range"):
        load_image(tmp_path / "f.tif")


def test_sample_with_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    Image.new("L", (10, 10)).save(tmp_path / "a_mask.png")
    sample = Sample(tmp_path / "a.png", "bolt", "test", "cut", tmp_path / "a_mask.png")
    with pytest.raises(InputError, match=r"a_mask\.png: the mask is 10x10 pixels, its image a\.png is 20x10"):
        load_sample(sample, 32)


@pytest.mark.parametrize(
    ("size", "lack"), [(None, "empty"), (3, "below a pixel"), (60, None)], ids=["empty", "a dot", "a square"]
)
def test_a_sample_says_what_its_mask_lacks(tmp_path: Path, size: int | None, lack: str | None) -> None:
    Image.new("RGB", (256, 256)).save(tmp_path / "a.png")
    mask = np.zeros((256, 256), np.uint8)
    mask[1 : 1 + (size or 0), 1 : 1 + (size or 0)] = 255
    Image.fromarray(mask).save(tmp_path / "a_mask.png")
    loaded = load_sample(Sample(tmp_path / "a.png", "bolt", "test", "cut", tmp_path / "a_mask.png"), 32)
    assert loaded.told.mask_lack == lack
    assert loaded.mask.any() == (lack != "empty")
