"""16-bit image files: how their values become 8 bits, and whether they fill their range.

Cameras of 10, 12 or 14 bits write their values into 16-bit files as they are. Taken for 16 bits, those of 10 bits keep 5 grey levels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from hvqray.config.data_sections import BitDepth
from hvqray.errors import InputError

Kind = Literal["grey", "colour"]
Largest = Mapping[Kind, int]
"""Largest value of the 16-bit files among some images, of each kind that there is."""

_DEPTHS = sorted(get_args(BitDepth))


def is_deep_grey(image: Image.Image) -> bool:
    """Whether an open image has one channel of 16 bits, or of 32 of which 16 may be used."""
    return image.mode == "I" or image.mode.startswith("I;16")


def is_deep_colour(image: ImageFile) -> bool:
    """Whether an open image, not yet decoded, has several channels of 16 bits, of which Pillow keeps the upper 8."""
    codec_arguments = [tile[3] for tile in image.tile]
    raw_modes = [str(given[0] if isinstance(given, tuple) else given) for given in codec_arguments]
    # A BMP's `BGR;16` has 16 bits a pixel.
    return not is_deep_grey(image) and any(re.search(r";16[BLN]$", mode) for mode in raw_modes)


def grey_to_8_bits(image: Image.Image, path: Path, bit_depth: BitDepth | None) -> tuple[Image.Image, int]:
    """A decoded 16-bit grey image in 8 bits, and its largest value before.

    Values are divided by 257 and rounded; with `bit_depth` divided by 2 ** (bit_depth - 8) and rounded down, so that either way the
    largest possible one becomes 255.

    Raises:
        InputError: a value does not fit into the bits.
    """
    values = np.asarray(image)
    lowest, largest = int(values.min()), int(values.max())
    if lowest < 0 or largest > 65535:
        raise InputError(unknown_range(image), source=str(path))
    if bit_depth is None:
        wide = values.astype(np.uint32)
        wide += 128
        wide //= 257
        return Image.fromarray(wide.astype(np.uint8)), largest
    if largest >= 2**bit_depth:
        raise InputError(
            f"{bit_depth} bits end at {2**bit_depth - 1}, and the largest value of this image is {largest}; raise it, or leave it out",
            source=str(path),
            field="data.bit_depth",
        )
    return Image.fromarray((values >> (bit_depth - 8)).astype(np.uint8)), largest


def unknown_range(image: Image.Image) -> str:
    """What to say of floating-point, signed or 32-bit values."""
    return f"{image.mode!r} pixels (32 bits) have no known range; save it as 8 or 16 bits"


def colour_fault(bit_depth: BitDepth) -> str:
    """What to say of a 16-bit colour image where `data.bit_depth` is set."""
    return f"{bit_depth} is for grey images, and this one has colours of 16 bits, of which the upper 8 are read; save it in 8 bits"


def largest_of(found: Iterable[Largest]) -> dict[Kind, int]:
    """The largest values of all."""
    largest: dict[Kind, int] = {}
    for one in found:
        for kind, value in one.items():
            largest[kind] = max(value, largest.get(kind, 0))
    return largest


def remarks(largest: Largest, bit_depth: BitDepth | None) -> list[str]:
    """What a user must know of 16-bit images whose largest values these are, a line each: what leaves most levels unused."""
    lines = []
    grey, colour = largest.get("grey"), largest.get("colour")
    if grey is None and bit_depth is not None:
        lines.append(
            f"data.bit_depth: {bit_depth} has no effect, as no image is a grey one of 16 bits; remove it"
        )
    if grey is not None and (fitting := _fitting(grey)) < (bit_depth or 16):
        levels = round(grey / 257) if bit_depth is None else grey >> (bit_depth - 8)
        lines.append(
            f"data.bit_depth: the largest value of the 16-bit grey images is {grey}, so that they become at most {levels + 1} of 256"
            f" grey levels; if the camera has {fitting} bits set it to {fitting}"
        )
    if colour is not None and _fitting(colour) < 16:
        lines.append(
            f"the largest value of the 16-bit colour images is at most {colour}, so that they become at most {(colour >> 8) + 1} of 256"
            " levels a channel; save them in 8 bits, scaled to the full range"
        )
    return lines


def _fitting(largest: int) -> int:
    """The fewest bits of a camera that hold the value."""
    return next((depth for depth in _DEPTHS if largest < 2**depth), 16)
