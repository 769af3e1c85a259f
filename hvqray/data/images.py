"""From an image or mask file to arrays of the square that models see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from hvqray.data.dataset import Sample
from hvqray.errors import InputError

PREPROCESSING_VERSION = "1"
"""Part of the cache's key: raise it whenever the same file would give other arrays."""


def load_image(path: Path, image_size: int | None = None) -> np.ndarray:
    """Reads an image as (S, S, 3) uint8 RGB, resized bicubically with antialiasing; at its own size without `image_size`.

    Grey images are repeated over the channels, 16-bit ones divided by 257, alpha is dropped, and an orientation tag
    is not applied (masks are drawn on the stored pixels).

    Raises:
        InputError: the file cannot be decoded, or holds floating-point or signed values.
    """
    image = _open(path)
    rgb = _to_8_bit(image, path).convert("RGB")
    if image_size is not None and rgb.size != (image_size, image_size):
        rgb = rgb.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(rgb)


def load_mask(path: Path, image_size: int | None = None, *, nonzero: bool = False) -> np.ndarray:
    """Reads a mask as (S, S) uint8 of 0 and 1: 1 where the value exceeds half of full scale; resized to the nearest pixel.

    With `nonzero` it is 1 where the stored value, a palette's index included, is not 0.

    Raises:
        InputError: the file cannot be decoded, or has non-zero values that all lie below half of full scale.
    """
    image = _open(path)
    if nonzero:
        stored = np.asarray(image if len(image.getbands()) == 1 else image.convert("RGB"))
        mask = (stored if stored.ndim == 2 else stored.any(axis=2)).astype(bool).astype(np.uint8)
    else:
        values = np.asarray(_to_8_bit(image, path).convert("L"))
        mask = (values > 127).astype(np.uint8)
        if not mask.any() and values.any():
            raise InputError(
                f"its largest value is {values.max()} of 255, and a pixel is anomalous above 127; scale the mask to 0 and 255",
                source=str(path),
            )
    if image_size is not None and mask.shape != (image_size, image_size):
        resized = Image.fromarray(mask).resize((image_size, image_size), Image.Resampling.NEAREST)
        mask = np.asarray(resized)
    return mask


def load_sample(sample: Sample, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads one sample as (3, S, S) uint8 RGB and (S, S) uint8 mask; the mask is all 0 where there is none.

    Raises:
        InputError: a file cannot be decoded, or the mask is not of the image's size.
    """
    image = load_image(sample.path, image_size)
    mask = np.zeros((image_size, image_size), np.uint8)
    if sample.synthetic_seed is not None:
        from hvqray.data.synthetic_defects import draw_synthetic_defect  # SciPy, which few starts need

        image, mask = draw_synthetic_defect(image, sample.synthetic_seed)
    elif sample.mask_path is not None:
        size, mask_size = image_dimensions(sample.path), image_dimensions(sample.mask_path)
        if size != mask_size:
            raise InputError(mask_size_fault(size, mask_size, sample.path), source=str(sample.mask_path))
        mask = load_mask(sample.mask_path, image_size, nonzero=sample.mask_is_nonzero)
    return np.ascontiguousarray(image.transpose(2, 0, 1)), mask


def mask_size_fault(size: tuple[int, int], mask_size: tuple[int, int], image_path: Path) -> str:
    """What to say of a mask that is not of its image's size (width, height)."""
    sizes = "{}x{} pixels, its image {} is {}x{}".format(*mask_size, image_path.name, *size)
    return f"the mask is {sizes}; give it its image's size"


def image_dimensions(path: Path) -> tuple[int, int]:
    """(width, height) from the file's header.

    Raises:
        InputError: the file is no image.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from None


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"not a readable image ({error or type(error).__name__}); replace or remove it", source=str(path)
    )


def _to_8_bit(image: Image.Image, path: Path) -> Image.Image:
    """Scales 16-bit greys, which Pillow would clip."""
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")
    if image.mode not in {"I", "F"} and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise InputError(
            f"{image.mode!r} pixels (32 bits) have no known range; save it as 8 or 16 bits", source=str(path)
        )
    return Image.fromarray(np.round(values / 257).astype(np.uint8))
