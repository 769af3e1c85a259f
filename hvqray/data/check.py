"""Every fault of a dataset, one line each."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hvqray.config.data_sections import BitDepth
from hvqray.data.bit_depth import Largest, largest_of
from hvqray.data.dataset import Dataset, Sample
from hvqray.data.files import NORMAL_ONLY, is_image
from hvqray.data.image_files import image_dimensions
from hvqray.data.images import load_mask, mask_size_fault, read_image
from hvqray.data.layouts import LAYOUTS
from hvqray.data.progress import Progress, silent
from hvqray.errors import InputError, counted

_NUM_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class _Inspection:
    """What opening one sample's files told."""

    faults: tuple[str, ...]
    pixels: bytes | None
    """Digest of the decoded image; None where it cannot be read."""
    largest: Largest


@dataclass(frozen=True)
class Findings:
    """What opening all files of a dataset told."""

    faults: list[str]
    """A line each, in the order of the classes."""
    largest: Largest
    """Largest values of the 16-bit images."""


def check_dataset(
    dataset: Dataset, *, bit_depth: BitDepth | None = None, progress: Progress = silent
) -> Findings:
    """Opens every image and mask and names what is wrong.

    Faults: an unreadable or too large image or mask, values beyond `bit_depth`, a mask of another size than its image, a defect image without a mask, an
    empty mask, a mask without an image, a class without training or normal test images, the same picture (equal
    decoded pixels) in train and test, and images in the classes' folders that are not read.
    """
    faults: list[str] = []
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        inspections: list[_Inspection] = []
        for inspection in pool.map(partial(_inspect, bit_depth=bit_depth), dataset.samples):
            inspections.append(inspection)
            progress("checking images", len(inspections), len(dataset.samples))
    for name in dataset.class_names:
        faults += _class_faults(dataset, name)
        of_class = [row for row, sample in enumerate(dataset.samples) if sample.class_name == name]
        for row in of_class:
            faults += inspections[row].faults
    faults += _unread_files(dataset)
    faults += _leaks(dataset, inspections)
    return Findings(faults, largest_of(inspection.largest for inspection in inspections))


def _inspect(sample: Sample, bit_depth: BitDepth | None) -> _Inspection:
    try:
        image, largest = read_image(sample.path, bit_depth=bit_depth)
    except InputError as error:
        return _Inspection((str(error),), None, {})
    pixels = hashlib.blake2b(str(image.shape).encode() + image.tobytes(), digest_size=16).digest()
    return _Inspection(tuple(_mask_faults(sample)), pixels, largest)


def _mask_faults(sample: Sample) -> Iterator[str]:
    if not sample.is_anomalous:
        return
    if sample.mask_path is None:
        yield f"{sample.path}: a defect image without a mask; add one, or its class has no pixel metrics"
        return
    try:
        size, mask_size = image_dimensions(sample.path), image_dimensions(sample.mask_path)
        if size != mask_size:
            yield f"{sample.mask_path}: {mask_size_fault(size, mask_size, sample.path)}"
        if not load_mask(sample.mask_path, nonzero=sample.mask_is_nonzero).any():
            yield f"{sample.mask_path}: the mask of a defect image is empty; mark the defect"
    except InputError as error:
        yield str(error)


def _class_faults(dataset: Dataset, name: str) -> Iterator[str]:
    good = {
        sample.part for sample in dataset.samples if sample.class_name == name and not sample.is_anomalous
    }
    for part, kind in (("train", "training image"), ("test", "normal test image")):
        if part not in good:
            yield f"{dataset.root}: class {name!r} is without a {kind}; add some ({_shape(dataset)})"


def _unread_files(dataset: Dataset) -> Iterator[str]:
    """Masks without an image, one line each; other images that have no place in the layout, one line a folder."""
    read = {path for sample in dataset.samples for path in (sample.path, sample.mask_path)} | dataset.left_out
    images = {(sample.class_name, sample.path.parent.name, sample.path.stem) for sample in dataset.samples}
    for top in dataset.folders:
        # A folder is that of one class and bears its name, or there is only one class.
        class_name = top.name if top.name in dataset.class_names else dataset.class_names[0]
        masks: list[Path] = []
        others: dict[Path, list[str]] = defaultdict(list)
        for folder, subfolders, names in os.walk(top):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for path in (Path(folder, name) for name in sorted(names) if is_image(Path(name))):
                if path in read:
                    continue
                if _is_mask(path.relative_to(top.parent)):
                    masks.append(path)
                else:
                    others[path.parent].append(path.name)
        for parent, names in others.items():
            yield (
                f"{parent}: {counted(len(names), 'image')} not read ({names[0]}{', ...' if len(names) > 1 else ''}):"
                f" {NORMAL_ONLY}, and the layout is {_shape(dataset)}; move or remove them"
            )
        for path in masks:
            # A normal image may have a mask, which is not looked at.
            if (class_name, path.parent.name, path.stem.removesuffix("_mask")) not in images:
                yield f"{path}: a mask without an image; remove it or add the image"


def _is_mask(path: Path) -> bool:
    return path.stem.endswith(("_mask", "_GT")) or any(
        part.lower() in {"ground_truth", "mask", "masks"} for part in path.parts
    )


def _shape(dataset: Dataset) -> str:
    return LAYOUTS[dataset.layout].shape


def _leaks(dataset: Dataset, inspections: list[_Inspection]) -> Iterator[str]:
    trained: dict[bytes, Path] = {}
    for sample, inspection in zip(dataset.samples, inspections, strict=True):
        if sample.part == "train" and inspection.pixels is not None:
            trained.setdefault(inspection.pixels, sample.path)
    for sample, inspection in zip(dataset.samples, inspections, strict=True):
        if sample.part == "test" and inspection.pixels in trained:
            yield f"{sample.path}: the same picture as {trained[inspection.pixels]} in train; remove one of them"
