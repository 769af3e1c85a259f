"""A plain folder of one product class, called after the folder, in one of two forms.

    ROOT/normal/*                 normal images
    ROOT/abnormal/[DEFECT/]*      defect images, one folder a defect type or all together
    ROOT/normal_test/*            normal images for the test; without it every fifth of `normal` is one
    ROOT/mask/[DEFECT/]*          masks: STEM_mask.EXT or STEM.EXT

The names are those of the `Folder` data module of anomalib. The other form is one class folder of MVTec AD: train/good, test/good,
test/DEFECT, ground_truth/DEFECT.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hvqray.data.dataset import GOOD, Dataset, Sample
from hvqray.data.files import (
    PARTS,
    VALIDATION,
    choose_classes,
    holds_masks,
    image_files,
    masks_by_stem,
    refuse_masks_among,
    subfolders,
)
from hvqray.data.mvtec import read_class_folder, validation_remarks
from hvqray.errors import InputError, counted

NORMAL, ABNORMAL, NORMAL_TEST, MASK = "normal", "abnormal", "normal_test", "mask"
TEST_SHARE = 5
"""Without `normal_test`, each fifth normal image is for the test: anomalib's default, a share of 0.2."""


def read_folder(root: Path, classes: Sequence[str] | None = None) -> Dataset:
    """Lists the images of `root`, sorted by part, defect and file name; opens none of them.

    Raises:
        InputError: `root` is of neither form or of both, `classes` names another class than the folder's name, or a
            mask lies among the images.
    """
    plain, as_class = is_plain_folder(root), is_class_folder(root)
    if plain == as_class:
        what = "has both" if plain else "has neither"
        raise InputError(
            f"{root} {what} a folder {NORMAL} {'and' if plain else 'nor'} train/{GOOD}; give it one of them",
            field="data.root",
        )
    name = root.name
    choose_classes(root, [name], classes)
    if as_class:
        of_class = tuple(read_class_folder(root, name))
        folders = _folders(root, (*PARTS, VALIDATION, "ground_truth"))
        remarks = validation_remarks(root, of_class)
        return Dataset(root, (name,), of_class, folders=folders, remarks=remarks)
    normal = image_files(root / NORMAL)
    normal_test = image_files(root / NORMAL_TEST)
    for paths in (normal, normal_test):
        refuse_masks_among(paths, None)
    remarks = ()
    if not (root / NORMAL_TEST).is_dir():
        normal_test = normal[TEST_SHARE - 1 :: TEST_SHARE]
        normal = [path for position, path in enumerate(normal, start=1) if position % TEST_SHARE]
        share = counted(len(normal_test), "image")
        remarks = (f"{root}: no folder {NORMAL_TEST}, so {share} of {NORMAL}, every fifth, for the test",)
    samples = [Sample(path, name, "train", GOOD) for path in normal]
    if (root / ABNORMAL / GOOD).is_dir():
        raise InputError(
            f"{root / ABNORMAL / GOOD}: {GOOD!r} is no defect type; move its images to {NORMAL_TEST}",
            field="data.root",
        )
    defects = [(ABNORMAL, root / ABNORMAL), *((sub.name, sub) for sub in subfolders(root / ABNORMAL))]
    for defect, folder in defects:
        masks_folder = root / MASK / folder.relative_to(root / ABNORMAL)
        masks = masks_by_stem(masks_folder)
        paths = image_files(folder)
        refuse_masks_among(paths, masks_folder)
        samples += [Sample(path, name, "test", defect, masks.get(path.stem)) for path in paths]
    samples += [Sample(path, name, "test", GOOD) for path in normal_test]
    samples.sort(key=lambda sample: (PARTS.index(sample.part), sample.defect, sample.path))
    folders = _folders(root, (NORMAL, ABNORMAL, NORMAL_TEST, MASK))
    return Dataset(root, (name,), tuple(samples), folders=folders, remarks=remarks)


def _folders(root: Path, read: Sequence[str]) -> tuple[Path, ...]:
    """Those that are read, and others that by their names hold masks, in which `check` finds these not read."""
    others = [sub for sub in subfolders(root) if holds_masks(sub.name) and sub.name not in read]
    return (*(root / name for name in read), *others)


def is_plain_folder(root: Path) -> bool:
    """Whether `root` has images in a folder `normal`."""
    return bool(image_files(root / NORMAL))


def is_class_folder(root: Path) -> bool:
    """Whether `root` is what MVTec AD has for one class."""
    return (root / "train" / GOOD).is_dir()
