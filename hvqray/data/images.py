"""From an image or mask file to arrays of the square that models see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hvqray.config.data_sections import BitDepth
from hvqray.data.bit_depth import (
    Largest,
    colour_fault,
    grey_to_8_bits,
    is_deep_colour,
    is_deep_grey,
    unknown_range,
)
from hvqray.data.dataset import Sample
from hvqray.data.image_files import decode, image_dimensions, open_image
from hvqray.errors import InputError

PREPROCESSING_VERSION = "1"
"""Part of the cache's key: raise it whenever the same file would give other arrays."""


@dataclass(frozen=True)
class LoadedSample:
    """One sample as it is cached."""

    image: np.ndarray
    """(3, S, S) uint8 RGB."""
    mask: np.ndarray
    """(S, S) uint8 of 0 and 1, all 0 where there is no mask."""
    largest: Largest
    """Largest value of the image's file where that has 16 bits; else empty."""


def load_image(path: Path, image_size: int | None = None, *, bit_depth: BitDepth | None = None) -> np.ndarray:
    """Reads an image as (S, S, 3) uint8 RGB, resized bicubically with antialiasing; at its own size without `image_size`.

    Grey images are repeated over the channels, 16-bit ones brought to 8 bits as `grey_to_8_bits` does, alpha is dropped, and an
    orientation tag is not applied (masks are drawn on the stored pixels).

    Raises:
        InputError: the file cannot be decoded, is too large, holds floating-point or signed values, or values beyond `bit_depth`.
    """
    return read_image(path, image_size, bit_depth=bit_depth)[0]


def read_image(
    path: Path, image_size: int | None = None, *, bit_depth: BitDepth | None = None
) -> tuple[np.ndarray, Largest]:
    """`load_image`, and the largest value of the file where that has 16 bits."""
    with open_image(path) as file:
        deep_colour = is_deep_colour(file)
        decode(file, path)
    if deep_colour and bit_depth is not None:
        raise InputError(colour_fault(bit_depth), source=str(path), field="data.bit_depth")
    image, largest_grey = _to_8_bits(file, path, bit_depth)
    if image.mode not in {"L", "RGB"}:
        image = image.convert("L" if image.mode == "1" else "RGB")
    largest: Largest = {} if largest_grey is None else {"grey": largest_grey}
    if deep_colour:
        largest = {"colour": int(np.asarray(image).max()) * 256 + 255}
    if image_size is not None and image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    # Last, since Pillow takes 4 bytes for a pixel of three colours.
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB")), largest


def load_mask(path: Path, image_size: int | None = None, *, nonzero: bool = False) -> np.ndarray:
    """Reads a mask as (S, S) uint8 of 0 and 1: 1 where the value exceeds half of full scale; resized to the nearest pixel.

    With `nonzero` it is 1 where the stored value, a palette's index included, is not 0.

    Raises:
        InputError: the file cannot be decoded, is too large, or has non-zero values that all lie below half of full scale.
    """
    with open_image(path) as image:
        decode(image, path)
    if nonzero:
        stored = np.asarray(image if len(image.getbands()) == 1 else image.convert("RGB"))
        mask = (stored if stored.ndim == 2 else stored.any(axis=2)).astype(bool).astype(np.uint8)
    else:
        values = np.asarray(_to_8_bits(image, path, None)[0].convert("L"))
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


def load_sample(sample: Sample, image_size: int, bit_depth: BitDepth | None = None) -> LoadedSample:
    """Reads one sample as squares of `image_size` pixels; `bit_depth` is that of the image, not of the mask.

    Raises:
        InputError: a file cannot be decoded, or the mask is not of the image's size.
    """
    image, largest = read_image(sample.path, image_size, bit_depth=bit_depth)
    mask = np.zeros((image_size, image_size), np.uint8)
    if sample.synthetic_seed is not None:
        from hvqray.data.synthetic_defects import draw_synthetic_defect  # SciPy, which few starts need

        image, mask = draw_synthetic_defect(image, sample.synthetic_seed)
    elif sample.mask_path is not None:
        size, mask_size = image_dimensions(sample.path), image_dimensions(sample.mask_path)
        if size != mask_size:
            raise InputError(mask_size_fault(size, mask_size, sample.path), source=str(sample.mask_path))
        mask = load_mask(sample.mask_path, image_size, nonzero=sample.mask_is_nonzero)
    return LoadedSample(np.ascontiguousarray(image.transpose(2, 0, 1)), mask, largest)


def mask_size_fault(size: tuple[int, int], mask_size: tuple[int, int], image_path: Path) -> str:
    """What to say of a mask that is not of its image's size (width, height)."""
    sizes = "{}x{} pixels, its image {} is {}x{}".format(*mask_size, image_path.name, *size)
    return f"the mask is {sizes}; give it its image's size"


def _to_8_bits(image: Image.Image, path: Path, bit_depth: BitDepth | None) -> tuple[Image.Image, int | None]:
    """A decoded image in 8 bits, and its largest value where it was a grey one of 16, which Pillow would clip."""
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA"), None
    if image.mode == "F":
        raise InputError(unknown_range(image), source=str(path))
    return grey_to_8_bits(image, path, bit_depth) if is_deep_grey(image) else (image, None)
