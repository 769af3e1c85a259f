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
from hvqray.errors import InputError, shortened

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


def to_8_bits(image: Image.Image, path: Path, bit_depth: BitDepth | None) -> tuple[Image.Image, int | None]:
    """A decoded image in 8 bits, and its largest value where it was a grey one of 16, which Pillow would clip.

    Raises:
        InputError: it holds floating-point values, or as `grey_to_8_bits` has it.
    """
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA"), None
    if image.mode == "F":
        raise InputError(
            "floating-point pixels have no known range; save it as 8 or 16 bits", source=str(path)
        )
    return grey_to_8_bits(image, path, bit_depth) if is_deep_grey(image) else (image, None)


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
        raise InputError(
            f"its values go from {lowest} to {largest}, and those of no other range than 0 to 65535 are known; save it as 8 or 16 bits",
            source=str(path),
        )
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


def remarks(largest_of_class: Mapping[str, Largest], bit_depth: BitDepth | None) -> list[str]:
    """What a user must know of 16-bit images, the largest values of which are given by class, a line each: what leaves most levels unused."""
    lines = []
    largest = largest_of(largest_of_class.values())
    if "grey" in largest:
        lines += _of_grey(largest["grey"], bit_depth)
        lines += _of_darker_classes(largest_of_class, largest["grey"], bit_depth)
    elif bit_depth is not None:
        lines.append(
            f"data.bit_depth: {bit_depth} has no effect, as no image is a grey one of 16 bits; remove it"
        )
    of_class = {name: found["colour"] for name, found in largest_of_class.items() if "colour" in found}
    dark = {name: value for name, value in of_class.items() if _fitting(value) < 16}
    if dark:
        whose = f"{shortened(sorted(dark))}: " if len(dark) < len(of_class) else ""
        value = max(dark.values())
        lines.append(
            f"{whose}the largest value of the 16-bit colour images is at most {value}, so that they become at most {(value >> 8) + 1} of 256"
            " levels a channel; save them in 8 bits, scaled to the full range"
        )
    return lines


def remarks_on_new_images(largest: Largest, bit_depth: BitDepth | None) -> list[str]:
    """`remarks` on images that a trained model is given: how it was trained cannot be set any more."""
    grey = largest.get("grey")
    if grey is None or _fitting(grey) >= (bit_depth or 16):
        return []
    return [
        f"the largest value of the 16-bit grey images is {grey}, so that they become at most {_levels(grey, bit_depth)} of 256 grey levels:"
        f" the model was trained with data.bit_depth {bit_depth or 'unset (16 bits)'}; give it images of the range that it was trained on"
    ]


def _of_grey(largest: int, bit_depth: BitDepth | None) -> list[str]:
    fitting = _fitting(largest)
    if largest >= 256 and fitting >= (bit_depth or 16):
        return []
    told = f"the largest value of the 16-bit grey images is {largest}, so that they become at most {_levels(largest, bit_depth)} of 256 grey levels"
    if largest < 256:
        return [f"{told}; if they are of 8 bits save them as 8 bits"]
    return [f"data.bit_depth: {told}; if the camera has {fitting} bits set it to {fitting}"]


def _of_darker_classes(
    largest_of_class: Mapping[str, Largest], largest: int, bit_depth: BitDepth | None
) -> list[str]:
    """Of classes that need fewer bits than others: `data.bit_depth`, one for all, cannot be set to theirs."""
    by_bits: dict[int, dict[str, int]] = {}
    for name, found in sorted(largest_of_class.items()):
        if "grey" in found and (bits := _bits(found["grey"])) < _bits(largest):
            by_bits.setdefault(bits, {})[name] = found["grey"]
    return [
        f"{shortened(list(values))}: the largest value of the 16-bit grey images is {max(values.values())}, that of other classes {largest}, so that these"
        f" become at most {_levels(max(values.values()), bit_depth)} of 256 grey levels; if they are of {bits} bits "
        + (
            "save them as 8 bits"
            if bits == 8
            else f"search them by themselves (data.classes) with data.bit_depth {bits}, or scale them to the range of the others"
        )
        for bits, values in sorted(by_bits.items())
    ]


def _levels(largest: int, bit_depth: BitDepth | None) -> int:
    """How many of 256 grey levels values up to `largest` can become."""
    return (round(largest / 257) if bit_depth is None else largest >> (bit_depth - 8)) + 1


def _bits(largest: int) -> int:
    return 8 if largest < 256 else _fitting(largest)


def _fitting(largest: int) -> int:
    """The fewest bits of a camera that hold the value."""
    return next((depth for depth in _DEPTHS if largest < 2**depth), 16)
