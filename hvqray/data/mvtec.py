"""Reads a dataset in the MVTec AD layout: CLASS/{train/good, test/good, test/DEFECT, ground_truth/DEFECT}."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hvqray.data.dataset import GOOD, Dataset, Sample
from hvqray.errors import InputError, did_you_mean

MEAN = "mean"
"""What the mean over classes is called in all results, so that no class can be."""
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
PARTS = ("train", "test")


def read_mvtec(root: str | Path, classes: Sequence[str] | None = None) -> Dataset:
    """Lists the images of `root`, sorted by class, part, defect and file name; opens none of them.

    A mask is named after its image: `ground_truth/DEFECT/STEM_mask.EXT` or `STEM.EXT`. Files that are no images
    (by their extension) are left out. `classes` restricts to those product classes, in alphabetical order.

    Raises:
        InputError: `root` is no folder, holds no class folder, has no class of a given name, or one called `mean`.
    """
    root = Path(root).expanduser().absolute()
    if not root.is_dir():
        raise InputError(
            f"{root} is not a folder; give the folder that holds the class folders", field="data.root"
        )
    known = [folder.name for folder in subfolders(root) if any((folder / part).is_dir() for part in PARTS)]
    if not known:
        hint = f"; did you mean its parent {root.parent}?" if (root / "train").is_dir() else ""
        raise InputError(
            f"{root} holds no class folder with train/good and test/good in it{hint}", field="data.root"
        )
    if classes is not None and not classes:
        raise InputError("[] names no class; leave it out (or null) to use all", field="data.classes")
    for name in classes or ():
        if name not in known:
            raise InputError(f"{root} has no class {name!r}{did_you_mean(name, known)}", field="data.classes")
    names = sorted(set(classes)) if classes is not None else known
    if MEAN in names:
        raise InputError(
            f"{root / MEAN} is a class called {MEAN!r}, which stands for the mean over classes in all results; rename the folder",
            field="data.root",
        )
    samples = [sample for name in names for part in PARTS for sample in _read_part(root / name, part)]
    return Dataset(root, tuple(names), tuple(samples))


def _read_part(class_folder: Path, part: str) -> list[Sample]:
    samples = []
    for folder in subfolders(class_folder / part):
        # Training is on normal images alone, so `train` has no other folder; `check` names those that are there.
        if part == "train" and folder.name != GOOD:
            continue
        masks = {} if folder.name == GOOD else masks_by_stem(class_folder / "ground_truth" / folder.name)
        for path in image_files(folder):
            mask = masks.get(f"{path.stem}_mask") or masks.get(path.stem)
            samples.append(Sample(path, class_folder.name, part, folder.name, mask))
    return samples


def masks_by_stem(folder: Path) -> dict[str, Path]:
    """Mask files of one defect type by their stem."""
    return {path.stem: path for path in image_files(folder)}


def image_files(folder: Path) -> list[Path]:
    """Image files directly in `folder` by their extension, sorted by name; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and _visible(path)
    )


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in `folder`, sorted by name, hidden ones left out."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and _visible(path))


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")
