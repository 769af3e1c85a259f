"""Images in the classes' folders that are not read: of other formats, without a place in the layout, masks of no image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from hvqray.data.dataset import Dataset, Sample
from hvqray.data.files import (
    MASK_SUFFIXES,
    NORMAL_ONLY,
    VALIDATION,
    first_of,
    has_unread_format,
    holds_masks,
    image_files,
    image_stem,
    is_image,
    subfolders,
    told_of_formats,
    unread_images,
)
from hvqray.data.folder import ABNORMAL, MASK
from hvqray.data.layouts import LAYOUTS
from hvqray.errors import counted


def unread_files(dataset: Dataset) -> Iterator[str]:
    """Masks without an image, or a second one of it, one line each; other files that are not read, one line a folder."""
    read = {path for sample in dataset.samples for path in (sample.path, sample.mask_path)} | dataset.left_out
    masks = _Masks(dataset)
    for top in dataset.folders:
        for folder, names in _walk(top):
            if foreign := [name for name in names if has_unread_format(Path(name))]:
                yield f"{folder}: {told_of_formats(foreign)}"
            paths = [folder / name for name in names if is_image(Path(name)) and folder / name not in read]
            others = [path.name for path in paths if not _is_mask(path, top, dataset)]
            if others:
                yield (
                    f"{folder}: {counted(len(others), 'image')} not read ({first_of(others)}):"
                    f" {NORMAL_ONLY}, and the layout is {_shape(dataset)}; move or remove them"
                )
            if not_read := [path for path in paths if path.name not in others]:
                yield from masks.not_read(_class_of(top, dataset), not_read)


class _Masks:
    """Which masks belong to which images."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._by_mask = {
            (sample.mask_path.parent, image_stem(sample.mask_path)): sample
            for sample in dataset.samples
            if sample.mask_path is not None
        }
        self._by_image: dict[tuple[str, str, str], Sample] = {
            (sample.class_name, sample.path.parent.name, sample.path.stem): sample
            for sample in dataset.samples
        }

    def not_read(self, class_name: str, paths: Sequence[Path]) -> Iterator[str]:
        """Lines on the masks of one folder that are not read."""
        misplaced: list[Path] = []
        known = _mask_folder(self._dataset)
        for path in paths:
            stem = image_stem(path)
            # Loose masks of a plain folder belong to the loose images.
            place = ABNORMAL if known == MASK and holds_masks(path.parent.name) else path.parent.name
            sample = self._by_mask.get((path.parent, stem)) or self._by_image.get((class_name, place, stem))
            if sample is None:
                yield f"{path}: a mask without an image; remove it or add the image"
            elif sample.mask_path is not None:
                yield f"{path}: a second mask of {sample.path}, of which {sample.mask_path} is read; remove one of them"
            elif sample.is_anomalous and known in path.parts[-3:-1]:
                yield f"{path}: a mask that is not read; rename it to {stem}_mask{path.suffix}"
            elif sample.is_anomalous:
                misplaced.append(path)
            # A normal image may have a mask, which is not looked at.
        if misplaced:
            told = (
                f"{counted(len(misplaced), 'mask')} not read ({first_of([path.name for path in misplaced])})"
            )
            mend = f"the folder must be called {known}" if known else "move or remove them"
            yield f"{misplaced[0].parent}: {told}; {mend} (the layout is {_shape(self._dataset)})"


def formats_remark(dataset: Dataset) -> list[str]:
    """One line where the classes' folders hold images in formats that are not read, else none."""
    found = [
        str(folder / name)
        for top in dataset.folders
        for folder, names in _walk(top)
        for name in names
        if has_unread_format(Path(name))
    ]
    return [f"{dataset.root}: {told_of_formats(found)}"] if found else []


def empty_folders(dataset: Dataset) -> list[str]:
    """A line for each folder of a defect type that has no image."""
    parts = ("test", VALIDATION)
    places = [top / part for top in dataset.folders for part in parts]
    places += [top for top in dataset.folders if top.name in {*parts, ABNORMAL}]
    return [
        f"{folder}: no image of this defect type; add some or remove the folder"
        for place in places
        for folder in subfolders(place)
        if not image_files(folder) and not unread_images(folder)
        if not (place.name == VALIDATION and holds_masks(folder.name))
    ]


def _walk(top: Path) -> Iterator[tuple[Path, list[str]]]:
    """All folders from `top` on that are not hidden, with the names of their files, sorted."""
    for folder, below, names in os.walk(top):
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield Path(folder), sorted(names)


def _class_of(top: Path, dataset: Dataset) -> str:
    """A folder is that of one class and bears its name, or there is only one class."""
    return top.name if top.name in dataset.class_names else dataset.class_names[0]


def _is_mask(path: Path, top: Path, dataset: Dataset) -> bool:
    # A class may itself be called `masks`; a plain folder is the class, and has its parts below it.
    is_class = top.name in dataset.class_names and dataset.layout != "folder"
    folders = path.parent.relative_to(top if is_class else top.parent).parts
    return path.stem.endswith(MASK_SUFFIXES) or any(map(holds_masks, folders))


def _mask_folder(dataset: Dataset) -> str | None:
    """What the layout calls the folder of the masks; None where lists name them."""
    if dataset.layout == "folder":
        return MASK if dataset.root / MASK in dataset.folders else "ground_truth"
    return "ground_truth" if "ground_truth" in _shape(dataset) else None


def _shape(dataset: Dataset) -> str:
    return LAYOUTS[dataset.layout].shape
