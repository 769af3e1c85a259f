"""From an image or mask file to arrays of the square that models see."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from hvqray.config.data_sections import BitDepth
from hvqray.data.bit_depth import (
    Largest,
    colour_fault,
    is_deep_colour,
    to_8_bits,
)
from hvqray.data.dataset import Sample
from hvqray.data.image_files import decode, image_dimensions, open_image
from hvqray.data.masks import load_mask, mask_size_fault, resize_mask
from hvqray.errors import InputError

PREPROCESSING_VERSION = "2"
"""Part of the cache's key: raise it whenever the same file would give other arrays."""


MaskLack = Literal["empty", "below a pixel"]
"""What a defect image's mask file lacks: any marked pixel, or one that resizing to the nearest pixel leaves."""


@dataclass(frozen=True)
class Told:
    """What a sample's files told besides their pixels."""

    largest: Largest = field(default_factory=dict)
    """Largest value of the image's file where that has 16 bits; else empty."""
    mask_lack: MaskLack | None = None


@dataclass(frozen=True)
class LoadedSample:
    """One sample as it is cached."""

    image: np.ndarray
    """(3, S, S) uint8 RGB."""
    mask: np.ndarray
    """(S, S) uint8 of 0 and 1, all 0 where there is no mask."""
    told: Told


def load_image(path: Path, image_size: int | None = None, *, bit_depth: BitDepth | None = None) -> np.ndarray:
    """Reads an image as (S, S, 3) uint8 RGB, resized bicubically with antialiasing; at its own size without `image_size`.

    Grey images are repeated over the channels, 16-bit ones brought to 8 bits as `grey_to_8_bits` does, alpha is dropped, and an
    orientation tag is not applied (masks are drawn on the stored pixels).

    Raises:
        InputError: the file cannot be decoded, is too large, holds floating-point values, values below 0 or above 65535, or beyond `bit_depth`.
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
    image, largest_grey = to_8_bits(file, path, bit_depth)
    if image.mode not in {"L", "RGB"}:
        image = image.convert("L" if image.mode == "1" else "RGB")
    largest: Largest = {} if largest_grey is None else {"grey": largest_grey}
    if deep_colour:
        largest = {"colour": int(np.asarray(image).max()) * 256 + 255}
    if image_size is not None and image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    # Last, since Pillow takes 4 bytes for a pixel of three colours.
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB")), largest


def load_sample(sample: Sample, image_size: int, bit_depth: BitDepth | None = None) -> LoadedSample:
    """Reads one sample as squares of `image_size` pixels; `bit_depth` is that of the image, not of the mask.

    Raises:
        InputError: a file cannot be decoded, or the mask is not of the image's size.
    """
    image, largest = read_image(sample.path, image_size, bit_depth=bit_depth)
    lack: MaskLack | None = None
    mask = np.zeros((image_size, image_size), np.uint8)
    if sample.synthetic_seed is not None:
        from hvqray.data.synthetic_defects import draw_synthetic_defect  # SciPy, which few starts need

        image, mask = draw_synthetic_defect(image, sample.synthetic_seed)
    elif sample.mask_path is not None:
        size, mask_size = image_dimensions(sample.path), image_dimensions(sample.mask_path)
        if size != mask_size:
            raise InputError(mask_size_fault(size, mask_size, sample.path), source=str(sample.mask_path))
        whole = load_mask(sample.mask_path, nonzero=sample.mask_is_nonzero)
        mask, is_below_a_pixel = resize_mask(whole, image_size)
        if not whole.any():
            lack = "empty"
        elif is_below_a_pixel:
            lack = "below a pixel"
    return LoadedSample(np.ascontiguousarray(image.transpose(2, 0, 1)), mask, Told(largest, lack))
