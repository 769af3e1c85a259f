"""The layout of KolektorSDD2: train/ and test/ with NNNNN.png and its mask NNNNN_GT.png; defective where the mask is not empty.

Božič, Tabernik and Skočaj, "Mixed supervision for surface-defect detection: from weakly to fully supervised learning",
Computers in Industry 129, 2021. Its training images are normal and defective; only the normal ones are used here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from hvqray.data.dataset import GOOD, Dataset, Sample
from hvqray.data.files import NORMAL_ONLY, PARTS, choose_classes, image_files
from hvqray.data.masks import load_mask
from hvqray.errors import InputError, counted

CLASS_NAME = "kolektor_sdd2"
_DEFECT = "defect"
_IMAGE = re.compile(r"\d+")
_MASK = re.compile(r"(\d+)_GT")
# The published archive holds an image and its mask twice, and the copy of the mask would pass for an image.
_COPY = re.compile(r"\d+(_GT)? \(copy\)")


def read_kolektor(root: Path, classes: Sequence[str] | None = None) -> Dataset:
    """Lists the images of `root`, all of one class, and opens their masks: the labels are nowhere else.

    An image without a mask file is left out and told of, as are defective training images.

    Raises:
        InputError: `root` holds no such pairs, a mask cannot be read, or `classes` names another class.
    """
    if not is_kolektor(root):
        raise InputError(
            f"{root} holds no NNNNN_GT.png in train or test; give the unpacked KolektorSDD2 folder",
            field="data.root",
        )
    choose_classes(root, [CLASS_NAME], classes)
    samples: list[Sample] = []
    left_out: list[Path] = []
    remarks: list[str] = []
    for part in PARTS:
        files = image_files(root / part)
        mask_of = {match[1]: path for path in files if (match := _MASK.fullmatch(path.stem))}
        images = [path for path in files if _IMAGE.fullmatch(path.stem)]
        paired = [path for path in images if path.stem in mask_of]
        masks = [mask_of[path.stem] for path in paired]
        left_out += [path for path in files if _COPY.fullmatch(path.stem)]
        if unpaired := len(images) - len(paired):
            remarks.append(
                f"{root / part}: {counted(unpaired, 'image')} without NNNNN_GT.png left out: nothing says which are normal"
            )
        with ThreadPoolExecutor() as pool:
            labels = list(pool.map(_is_marked, masks))
        if part == "train" and any(labels):
            remarks.append(
                f"{root / part}: {counted(sum(labels), 'defective image')} not used: {NORMAL_ONLY}"
            )
        for path, mask, is_defective in zip(paired, masks, labels, strict=True):
            if not is_defective:
                samples.append(Sample(path, CLASS_NAME, part, GOOD))
                left_out.append(mask)
            elif part == "test":
                samples.append(Sample(path, CLASS_NAME, part, _DEFECT, mask, mask_is_nonzero=True))
            else:
                left_out += [path, mask]
    samples.sort(key=lambda sample: (PARTS.index(sample.part), sample.defect, sample.path))
    return Dataset(
        root,
        (CLASS_NAME,),
        tuple(samples),
        folders=tuple(root / part for part in PARTS),
        left_out=frozenset(left_out),
        remarks=tuple(remarks),
    )


def is_kolektor(root: Path) -> bool:
    """Whether `train` or `test` of `root` has a NNNNN_GT.png directly in it."""
    return any(_MASK.fullmatch(path.stem) for part in PARTS for path in image_files(root / part))


def _is_marked(mask: Path) -> bool:
    try:
        status = mask.stat()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", source=str(mask)) from None
    return _is_marked_now(mask, status.st_size, status.st_mtime_ns)


# A worker that trains one trial after another lists the dataset for each of them.
@lru_cache(maxsize=8192)
def _is_marked_now(mask: Path, size_bytes: int, modified_ns: int) -> bool:
    return bool(load_mask(mask, nonzero=True).any())
