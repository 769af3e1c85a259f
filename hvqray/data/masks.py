"""From a mask file to the anomalous pixels of the square that models see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from hvqray.data.bit_depth import to_8_bits
from hvqray.data.image_files import decode, open_image
from hvqray.errors import InputError


def load_mask(path: Path, image_size: int | None = None, *, nonzero: bool = False) -> np.ndarray:
    """Reads a mask as (S, S) uint8 of 0 and 1: 1 where the value exceeds half of full scale; resized as `resize_mask` does.

    With `nonzero` it is 1 where the stored value, a palette's index included, is not 0.

    Raises:
        InputError: the file cannot be decoded, is too large, or has non-zero values that all lie below half of full scale.
    """
    mask = marked(decoded_mask(path), path, nonzero=nonzero)
    return mask if image_size is None else resize_mask(mask, image_size)[0]


def decoded_mask(path: Path) -> ImageFile:
    """The mask as it is stored.

    Raises:
        InputError: the file cannot be decoded, or is too large.
    """
    with open_image(path) as image:
        decode(image, path)
    return image


def marked(image: Image.Image, path: Path, *, nonzero: bool) -> np.ndarray:
    """(H, W) uint8, 1 where a decoded mask is anomalous, at its own size; the rule and what is raised are those of `load_mask`."""
    if nonzero:
        stored = np.asarray(image if len(image.getbands()) == 1 else image.convert("RGB"))
        return (stored if stored.ndim == 2 else stored.any(axis=2)).astype(bool).astype(np.uint8)
    image_8, largest = to_8_bits(image, path, None)
    values = np.asarray(image_8.convert("L"))
    mask = (values > 127).astype(np.uint8)
    # Of 16 bits the stored value: 0 and 1 are both 0 in 8 bits.
    full = 255 if largest is None else 65535
    largest = int(values.max()) if largest is None else largest
    if largest and not mask.any():
        raise InputError(
            f"its largest value is {largest} of {full}, and a pixel is anomalous above {full // 2}; scale the mask to 0 and {full}",
            source=str(path),
        )
    return mask


def resize_mask(mask_HW: np.ndarray, image_size: int) -> tuple[np.ndarray, bool]:
    """(S, S) uint8 of 0 and 1, to the nearest pixel, and whether nothing of the mask would be left so.

    Then a pixel is anomalous where any of its area is marked: the published protocol resizes to the nearest pixel, and an image whose defect
    has no pixel counts as normal in pixel metrics.
    """
    if mask_HW.shape == (image_size, image_size):
        return mask_HW, False
    nearest = np.asarray(Image.fromarray(mask_HW).resize((image_size, image_size), Image.Resampling.NEAREST))
    if nearest.any() or not mask_HW.any():
        return nearest, False
    height, width = mask_HW.shape
    rows = np.stack([mask_HW[span].any(axis=0) for span in _spans(height, image_size)])
    touched = np.stack([rows[:, span].any(axis=1) for span in _spans(width, image_size)], axis=1)
    return touched.astype(np.uint8), True


def _spans(length: int, parts: int) -> list[slice]:
    """The pixels of a side of `length` that each of `parts` equal parts touches."""
    return [slice(i * length // parts, -(-(i + 1) * length // parts)) for i in range(parts)]


def mask_size_fault(size: tuple[int, int], mask_size: tuple[int, int], image_path: Path) -> str:
    """What to say of a mask that is not of its image's size (width, height)."""
    sizes = "{}x{} pixels, its image {} is {}x{}".format(*mask_size, image_path.name, *size)
    return f"the mask is {sizes}; give it its image's size"
