"""Every fault of a dataset, one line each."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hvqray.config.data_sections import BitDepth
from hvqray.data.bit_depth import Largest, largest_of
from hvqray.data.dataset import Dataset, Sample
from hvqray.data.files import ALL_PARTS
from hvqray.data.image_files import PAGES, Oddity, has_more_pages, told_of_files
from hvqray.data.images import read_image
from hvqray.data.layouts import LAYOUTS
from hvqray.data.mask_checks import inspect_mask
from hvqray.data.progress import Progress, silent
from hvqray.data.unread import empty_folders, unread_files
from hvqray.errors import InputError

_NUM_THREADS = min(8, os.cpu_count() or 1)
_NARROWEST = 8
_NARROW: Oddity = (
    f"image is narrower than {_NARROWEST} pixels",
    f"images are narrower than {_NARROWEST} pixels",
    "see that it is the picture that was meant",
)


@dataclass(frozen=True)
class _Inspection:
    """What opening one sample's files told."""

    faults: tuple[str, ...]
    pixels: bytes | None
    """Digest of the decoded image; None where it cannot be read."""
    largest: Largest
    odd: tuple[Oddity, ...] = ()


@dataclass(frozen=True)
class Findings:
    """What opening all files of a dataset told."""

    faults: list[str]
    """A line each, in the order of the classes."""
    largest: dict[str, Largest]
    """Largest values of the 16-bit images, by class."""
    remarks: list[str]
    """What looks odd and is no fault, a line each."""


def check_dataset(
    dataset: Dataset, *, bit_depth: BitDepth | None = None, progress: Progress = silent
) -> Findings:
    """Opens every image and mask and names what is wrong.

    Faults: an unreadable or too large image or mask, values beyond `bit_depth`, a mask of another size than its image, a defect image
    without a mask, an empty mask or one drawn in its alpha channel, a mask without an image, a second one of an image or one in a folder
    that is not read, a class without training or normal test images, the same picture (equal decoded pixels) in two parts, twice
    in test or in two classes, and images in the classes' folders that are not read, be it for their format.

    Remarks: a mask that covers the whole image, or has an even area below half of full scale; an image of several pages, or narrower
    than 8 pixels; a folder of a defect type without an image.
    """
    faults: list[str] = []
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        inspections: list[_Inspection] = []
        for inspection in pool.map(partial(_inspect, bit_depth=bit_depth), dataset.samples):
            inspections.append(inspection)
            progress("checking images", len(inspections), len(dataset.samples))
    largest: dict[str, Largest] = {}
    odd: dict[tuple[str, Oddity], list[Path]] = defaultdict(list)
    for name in dataset.class_names:
        faults += _class_faults(dataset, name)
        of_class = [row for row, sample in enumerate(dataset.samples) if sample.class_name == name]
        for row in of_class:
            faults += inspections[row].faults
            for what in inspections[row].odd:
                odd[name, what].append(dataset.samples[row].path)
        largest[name] = largest_of(inspections[row].largest for row in of_class)
    faults += unread_files(dataset)
    faults += _equal_pictures(dataset.samples, inspections)
    remarks = [f"{name}: {told_of_files(what, paths)}" for (name, what), paths in odd.items()]
    return Findings(faults, largest, remarks + empty_folders(dataset))


def _inspect(sample: Sample, bit_depth: BitDepth | None) -> _Inspection:
    try:
        image, largest = read_image(sample.path, bit_depth=bit_depth)
        odd = [PAGES] if has_more_pages(sample.path) else []
    except InputError as error:
        return _Inspection((str(error),), None, {})
    if min(image.shape[:2]) < _NARROWEST:
        odd.append(_NARROW)
    pixels = hashlib.blake2b(str(image.shape).encode() + image.tobytes(), digest_size=16).digest()
    faults, odd_of_mask = inspect_mask(sample)
    return _Inspection(tuple(faults), pixels, largest, (*odd, *odd_of_mask))


def _class_faults(dataset: Dataset, name: str) -> Iterator[str]:
    good = {
        sample.part for sample in dataset.samples if sample.class_name == name and not sample.is_anomalous
    }
    for part, kind in (("train", "training image"), ("test", "normal test image")):
        if part not in good:
            yield f"{dataset.root}: class {name!r} is without a {kind}; add some ({LAYOUTS[dataset.layout].shape})"


def _equal_pictures(samples: Sequence[Sample], inspections: Sequence[_Inspection]) -> Iterator[str]:
    """Each picture that is there again, beside the first of it, which is one of train, or else of validation, where there is any."""
    firsts: dict[bytes, Sample] = {}
    for part in ALL_PARTS:
        for sample, inspection in zip(samples, inspections, strict=True):
            if sample.part != part or inspection.pixels is None:
                continue
            first = firsts.setdefault(inspection.pixels, sample)
            if first is sample:
                continue
            same = f"{sample.path}: the same picture as {first.path}"
            if first.part != part:
                yield f"{same} in {first.part}; remove one of them"
            elif first.class_name != sample.class_name:
                yield f"{same} of another class; remove one of them"
            elif part != "train" and first.defect != sample.defect:
                yield f"{same}, and one is called {first.defect}, the other {sample.defect}; remove the one that is wrong"
            elif part == "test":
                yield f"{same}, and one may come into val, the other into test; remove one of them"
