"""Every fault of a dataset, one line each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hvqray.data.dataset import GOOD, Dataset, Sample
from hvqray.data.images import image_dimensions, load_image, load_mask, mask_size_fault
from hvqray.data.mvtec import PARTS, image_files, masks_by_stem, subfolders
from hvqray.data.progress import Progress, silent
from hvqray.errors import InputError

_NUM_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class _Inspection:
    """What opening one sample's files told."""

    faults: tuple[str, ...]
    pixels: bytes | None
    """Digest of the decoded image; None where it cannot be read."""


def find_faults(dataset: Dataset, *, progress: Progress = silent) -> list[str]:
    """Opens every image and mask and names what is wrong, in the order of the classes.

    Faults: an unreadable image or mask, a mask of another size than its image, a defect image without a mask, an
    empty mask, a mask without an image, a class without training or normal test images, the same picture (equal
    decoded pixels) in train and test, and folders of images that are not read.
    """
    faults: list[str] = []
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        inspections: list[_Inspection] = []
        for inspection in pool.map(_inspect, dataset.samples):
            inspections.append(inspection)
            progress("checking images", len(inspections), len(dataset.samples))
    for name in dataset.class_names:
        faults += _class_faults(dataset, name)
        of_class = [row for row, sample in enumerate(dataset.samples) if sample.class_name == name]
        for row in of_class:
            faults += inspections[row].faults
    faults += _leaks(dataset, inspections)
    return faults


def _inspect(sample: Sample) -> _Inspection:
    try:
        image = load_image(sample.path)
    except InputError as error:
        return _Inspection((str(error),), None)
    pixels = hashlib.blake2b(str(image.shape).encode() + image.tobytes(), digest_size=16).digest()
    return _Inspection(tuple(_mask_faults(sample)), pixels)


def _mask_faults(sample: Sample) -> Iterator[str]:
    if not sample.is_anomalous:
        return
    if sample.mask_path is None:
        wanted = f"ground_truth/{sample.defect}/{sample.path.stem}_mask.png"
        yield f"{sample.path}: a defect image without a mask; add {wanted}, or its class has no pixel metrics"
        return
    try:
        size, mask_size = image_dimensions(sample.path), image_dimensions(sample.mask_path)
        if size != mask_size:
            yield f"{sample.mask_path}: {mask_size_fault(size, mask_size, sample.path)}"
        if not load_mask(sample.mask_path).any():
            yield f"{sample.mask_path}: the mask of a defect image is empty; mark the defect"
    except InputError as error:
        yield str(error)


def _class_faults(dataset: Dataset, name: str) -> Iterator[str]:
    folder = dataset.root / name
    for part in PARTS:
        if not image_files(folder / part / GOOD):
            kind = "a training image" if part == "train" else "a normal test image"
            yield f"{folder}: class without {kind}; add some to {part}/{GOOD}"
        loose = image_files(folder / part)
        if loose:
            yield f"{folder / part}: {len(loose)} images beside its folders are not read; move them into one"
    for extra in subfolders(folder / "train"):
        if extra.name != GOOD and image_files(extra):
            yield f"{extra}: not read, for training is on normal images alone; move it to test"
    for extra in subfolders(folder):
        if extra.name not in (*PARTS, "ground_truth") and any(
            image_files(part) for part in (extra, *subfolders(extra))
        ):
            yield f"{extra}: its images are not read; the layout has train, test and ground_truth"
    for masks in subfolders(folder / "ground_truth"):
        stems = {path.stem for path in image_files(folder / "test" / masks.name)}
        for stem, path in masks_by_stem(masks).items():
            if stem not in stems and stem.removesuffix("_mask") not in stems:
                yield f"{path}: a mask without an image in test/{masks.name}; remove it or add the image"


def _leaks(dataset: Dataset, inspections: list[_Inspection]) -> Iterator[str]:
    trained: dict[bytes, Path] = {}
    for sample, inspection in zip(dataset.samples, inspections, strict=True):
        if sample.part == "train" and inspection.pixels is not None:
            trained.setdefault(inspection.pixels, sample.path)
    for sample, inspection in zip(dataset.samples, inspections, strict=True):
        if sample.part == "test" and inspection.pixels in trained:
            yield f"{sample.path}: the same picture as {trained[inspection.pixels]} in train; remove one of them"
