"""The layout of BTAD: CLASS/{train/ok, test/ok, test/ko, ground_truth/ko}, with the classes 01, 02 and 03.

Mishra et al., "VT-ADL: A Vision Transformer Network for Image Anomaly Detection and Localization", ISIE 2021. Images and masks
are BMP or PNG, not always the same for an image and its mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hvqray.data.dataset import Dataset
from hvqray.data.files import PARTS, choose_classes, subfolders
from hvqray.data.mvtec import dataset_of_class_folders
from hvqray.errors import InputError

OK = "ok"


def read_btad(root: Path, classes: Sequence[str] | None = None) -> Dataset:
    """Lists the images of `root`, as `read_mvtec` does; the one defect type is `ko`.

    Raises:
        InputError: `root` holds no class folder, has no class of a given name, or one called `mean`.
    """
    known = btad_classes(root)
    if not known:
        raise InputError(
            f"{root} holds no class folder with train/ok and test/ok in it; give the folder of 01, 02 and 03",
            field="data.root",
        )
    names = choose_classes(root, known, classes)
    return dataset_of_class_folders(root, names, good=OK)


def btad_classes(root: Path) -> list[str]:
    """The folders in `root` that have `train/ok` or `test/ok` in them, sorted."""
    return [
        folder.name for folder in subfolders(root) if any((folder / part / OK).is_dir() for part in PARTS)
    ]
