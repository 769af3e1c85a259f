"""What is wrong with masks of defect images, or looks so: by `check` all of it, at the start of a run what the cache knows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hvqray.data.bit_depth import is_deep_grey
from hvqray.data.dataset import Sample
from hvqray.data.image_files import Oddity, image_dimensions
from hvqray.data.images import MaskLack
from hvqray.data.masks import decoded_mask, marked, mask_size_fault
from hvqray.errors import InputError, counted

WHOLE: Oddity = (
    "mask covers the whole image",
    "masks cover the whole image",
    "see that only the defect is marked",
)
LOW_LEVEL: Oddity = (
    "mask has an even area below half of full scale, which counts as normal",
    "masks have an even area below half of full scale, which counts as normal",
    "where it is a defect draw it at full scale",
)
_LOSSY_NOISE = 16
"""Values that JPEG and WebP may give to what was drawn as 0."""


def inspect_mask(sample: Sample) -> tuple[list[str], list[Oddity]]:
    """The faults of a defect image's mask, a line each, and what looks odd of it: `WHOLE`, `LOW_LEVEL`."""
    if not sample.is_anomalous:
        return [], []
    path = sample.mask_path
    if path is None:
        return [
            f"{sample.path}: a defect image without a mask; add one, or its class has no pixel metrics"
        ], []
    faults = []
    try:
        size, mask_size = image_dimensions(sample.path), image_dimensions(path)
        if size != mask_size:
            faults.append(f"{path}: {mask_size_fault(size, mask_size, sample.path)}")
        image = decoded_mask(path)
        if _is_drawn_in_alpha(image):
            faults.append(
                f"{path}: the mask has one colour, and differs in its alpha channel alone, which is dropped; save the alpha channel as a grey image"
            )
            return faults, []
        mask = marked(image, path, nonzero=sample.mask_is_nonzero)
    except InputError as error:
        return [*faults, str(error)], []
    if not mask.any():
        faults.append(f"{path}: the mask of a defect image is empty; mark the defect")
    odd: list[Oddity] = []
    if mask.all():
        odd.append(WHOLE)
    if not sample.mask_is_nonzero and _has_low_level(image, path):
        odd.append(LOW_LEVEL)
    return faults, odd


def mask_remarks(samples: Sequence[Sample], lacks: Sequence[MaskLack | None], image_size: int) -> list[str]:
    """What a user must know of the defect images' masks at the start of a run, a line each."""
    lines = []
    if empty := [sample.mask_path for sample, lack in zip(samples, lacks, strict=True) if lack == "empty"]:
        what = "the mask" if len(empty) == 1 else "the masks"
        lines.append(
            f"{what} of {counted(len(empty), 'defect image')} {'is' if len(empty) == 1 else 'are'} empty (first: {empty[0]}); mark the defects"
        )
    num_masks: dict[str, int] = defaultdict(int)
    num_small: dict[str, int] = defaultdict(int)
    for sample, lack in zip(samples, lacks, strict=True):
        num_masks[sample.class_name] += sample.mask_path is not None
        num_small[sample.class_name] += lack == "below a pixel"
    lines += [
        f"{name}: the masks of {num} of {counted(num_masks[name], 'defect image')} are smaller than a pixel at data.image_size {image_size}; raise it"
        for name, num in num_small.items()
        if num
    ]
    return lines


def _is_drawn_in_alpha(image: Image.Image) -> bool:
    if "A" not in image.getbands() and "transparency" not in image.info:
        return False
    pixels_HW4 = np.asarray(image.convert("RGBA"))
    differs = (pixels_HW4 != pixels_HW4[0, 0]).any(axis=(0, 1))
    return bool(differs[3] and not differs[:3].any())


def _has_low_level(image: Image.Image, path: Path) -> bool:
    """Whether 3 x 3 pixels have one value that is not 0 and does not exceed half of full scale: antialiased edges have none."""
    deep = is_deep_grey(image)
    values = np.asarray(image if deep else image.convert("RGBA").convert("L"))
    lowest = _LOSSY_NOISE if path.suffix.lower() in {".jpg", ".jpeg", ".webp"} else 1
    is_low = (values >= lowest) & (values <= (32767 if deep else 127))
    height, width = values.shape
    if not is_low.any() or min(height, width) < 3:
        return False
    even = is_low[1:-1, 1:-1].copy()
    for row in range(3):
        for column in range(3):
            even &= values[row : height - 2 + row, column : width - 2 + column] == values[1:-1, 1:-1]
    return bool(even.any())
