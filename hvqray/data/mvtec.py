"""The layout of MVTec AD, which MPDD shares: CLASS/{train/good, test/good, test/DEFECT, ground_truth/DEFECT}.

A class may have `validation` beside `test` and like it, as later datasets of the same makers do; masks of its defects lie in
`validation/ground_truth/DEFECT`, or among the others where no image of `test` is called like them.

Bergmann et al., "MVTec AD – A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection", CVPR 2019. Jezek et al.,
"Deep learning-based defect detection of metal parts", ICUMT 2021 (MPDD).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hvqray.data.dataset import GOOD, Dataset, Sample
from hvqray.data.files import (
    ALL_PARTS,
    PARTS,
    VALIDATION,
    choose_classes,
    image_files,
    masks_by_stem,
    refuse_masks_among,
    subfolders,
)
from hvqray.errors import InputError, counted

_MASKS = "ground_truth"


def read_mvtec(root: Path, classes: Sequence[str] | None = None) -> Dataset:
    """Lists the images of `root`, sorted by class, part, defect and file name; opens none of them.

    A mask is named after its image: `ground_truth/DEFECT/STEM_mask.EXT` or `STEM.EXT`. Files that are no images
    (by their extension) are left out. `classes` restricts to those product classes, in alphabetical order.

    Raises:
        InputError: `root` holds no class folder, has no class of a given name, or one called `mean`; or as `read_class_folder` has it.
    """
    known = class_folders(root)
    if not known:
        hint = f"; did you mean its parent {root.parent}?" if (root / "train").is_dir() else ""
        raise InputError(
            f"{root} holds no class folder with train/good and test/good in it{hint}", field="data.root"
        )
    names = choose_classes(root, [folder.name for folder in known], classes)
    return dataset_of_class_folders(root, names)


def dataset_of_class_folders(root: Path, names: Sequence[str], *, good: str = GOOD) -> Dataset:
    """The images of these class folders of `root`; `good` and what is raised as of `read_class_folder`."""
    samples = tuple(sample for name in names for sample in read_class_folder(root / name, name, good=good))
    folders = tuple(root / name for name in names)
    return Dataset(root, tuple(names), samples, folders=folders, remarks=validation_remarks(root, samples))


def validation_remarks(root: Path, samples: Sequence[Sample]) -> tuple[str, ...]:
    """A line on what becomes of the images of `validation`, where there are any."""
    own = [sample for sample in samples if sample.part == VALIDATION]
    if not own:
        return ()
    defects = sum(sample.is_anomalous for sample in own)
    return (
        f"{root}: {counted(len(own), 'image')} of {VALIDATION}, {defects} of them with defects, come into val"
        " (with data.validation.from none they are not used)",
    )


def class_folders(root: Path) -> list[Path]:
    """The folders in `root` that have `train` or `test` in them, sorted by name."""
    return [folder for folder in subfolders(root) if any((folder / part).is_dir() for part in PARTS)]


def read_class_folder(folder: Path, class_name: str, *, good: str = GOOD) -> list[Sample]:
    """The images of one class folder; `good` is what the folders of normal images are called in it.

    Raises:
        InputError: a mask lies among the images, or a folder of normal images is called `good` but for the case.
    """
    samples = []
    for part in ALL_PARTS:
        for images in subfolders(folder / part):
            if part == VALIDATION and images.name == _MASKS:
                continue
            if images.name != good and images.name.lower() == good:
                raise InputError(f"is not read as {good!r}; rename it to {good}", source=str(images))
            # Training is on normal images alone, so `train` has no other folder; `check` names those that are there.
            if part == "train" and images.name != good:
                continue
            is_good = images.name == good
            masks = {} if is_good else _masks(folder, part, images.name)
            defect = GOOD if is_good else images.name
            paths = image_files(images)
            # Beside those of `test` a mask of `validation` might have the name of another one.
            place = folder / VALIDATION if part == VALIDATION else folder
            refuse_masks_among(paths, None if is_good else place / _MASKS / images.name)
            samples += [Sample(path, class_name, part, defect, masks.get(path.stem)) for path in paths]
    return samples


def _masks(folder: Path, part: str, defect: str) -> dict[str, Path]:
    """By the stems of their images."""
    masks = masks_by_stem(folder / _MASKS / defect)
    if part == "test":
        return masks
    of_test = {path.stem for path in image_files(folder / "test" / defect)}
    of_both = {stem: path for stem, path in masks.items() if stem not in of_test}
    return of_both | masks_by_stem(folder / VALIDATION / _MASKS / defect)
