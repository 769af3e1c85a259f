"""The layout of MVTec AD, which MPDD shares: CLASS/{train/good, test/good, test/DEFECT, ground_truth/DEFECT}.

Bergmann et al., "MVTec AD – A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection", CVPR 2019. Jezek et al.,
"Deep learning-based defect detection of metal parts", ICUMT 2021 (MPDD).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hvqray.data.dataset import GOOD, Dataset, Sample
from hvqray.data.files import (
    PARTS,
    choose_classes,
    image_files,
    masks_by_stem,
    refuse_masks_among,
    subfolders,
)
from hvqray.errors import InputError


def read_mvtec(root: Path, classes: Sequence[str] | None = None) -> Dataset:
    """Lists the images of `root`, sorted by class, part, defect and file name; opens none of them.

    A mask is named after its image: `ground_truth/DEFECT/STEM_mask.EXT` or `STEM.EXT`. Files that are no images
    (by their extension) are left out. `classes` restricts to those product classes, in alphabetical order.

    Raises:
        InputError: `root` holds no class folder, has no class of a given name, or one called `mean`; or as `read_class_folder` has it.
    """
    folders = class_folders(root)
    if not folders:
        hint = f"; did you mean its parent {root.parent}?" if (root / "train").is_dir() else ""
        raise InputError(
            f"{root} holds no class folder with train/good and test/good in it{hint}", field="data.root"
        )
    names = choose_classes(root, [folder.name for folder in folders], classes)
    samples = [sample for name in names for sample in read_class_folder(root / name, name)]
    return Dataset(root, tuple(names), tuple(samples), folders=tuple(root / name for name in names))


def class_folders(root: Path) -> list[Path]:
    """The folders in `root` that have `train` or `test` in them, sorted by name."""
    return [folder for folder in subfolders(root) if any((folder / part).is_dir() for part in PARTS)]


def read_class_folder(folder: Path, class_name: str, *, good: str = GOOD) -> list[Sample]:
    """The images of one class folder; `good` is what the folders of normal images are called in it.

    Raises:
        InputError: a mask lies among the images, or a folder of normal images is called `good` but for the case.
    """
    samples = []
    for part in PARTS:
        for images in subfolders(folder / part):
            if images.name != good and images.name.lower() == good:
                raise InputError(f"is not read as {good!r}; rename it to {good}", source=str(images))
            # Training is on normal images alone, so `train` has no other folder; `check` names those that are there.
            if part == "train" and images.name != good:
                continue
            is_good = images.name == good
            masks = {} if is_good else masks_by_stem(folder / "ground_truth" / images.name)
            defect = GOOD if is_good else images.name
            paths = image_files(images)
            refuse_masks_among(paths, None if is_good else folder / "ground_truth" / images.name)
            samples += [Sample(path, class_name, part, defect, masks.get(path.stem)) for path in paths]
    return samples
