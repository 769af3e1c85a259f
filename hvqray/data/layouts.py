"""Which layouts of datasets there are, and which of them a folder has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hvqray.data.btad import OK, btad_classes, read_btad
from hvqray.data.dataset import GOOD, Dataset
from hvqray.data.files import PARTS, dataset_root, subfolders
from hvqray.data.folder import NORMAL, is_class_folder, is_plain_folder, read_folder
from hvqray.data.kolektor import is_kolektor, read_kolektor
from hvqray.data.mvtec import class_folders, read_mvtec
from hvqray.data.published import PUBLISHED
from hvqray.data.real_iad import json_folder, read_real_iad
from hvqray.data.visa import SPLIT_FILE, read_visa
from hvqray.errors import InputError

AUTO = "auto"


@dataclass(frozen=True)
class Layout:
    """One way in which datasets lie on disk."""

    shape: str
    """What its folder holds, for messages."""
    matches: Callable[[Path], bool]
    """Whether a folder looks like it; at most one layout matches a sound dataset."""
    read: Callable[[Path, Sequence[str] | None], Dataset]
    """Lists the images of a folder, of all classes or of some."""


def _is_mpdd(root: Path) -> bool:
    return _class_names(root) <= PUBLISHED["mpdd"].classes.keys() and _has_mvtec_shape(root)


def _is_mvtec(root: Path) -> bool:
    return _has_mvtec_shape(root) and not _is_mpdd(root)


def _has_mvtec_shape(root: Path) -> bool:
    return any((folder / part / GOOD).is_dir() for folder in class_folders(root) for part in PARTS)


def _class_names(root: Path) -> set[str]:
    return {folder.name for folder in class_folders(root)}


_MVTEC_SHAPE = "CLASS/{train/good, test/good, test/DEFECT, ground_truth/DEFECT}"

LAYOUTS = {
    "mvtec_ad": Layout(_MVTEC_SHAPE, _is_mvtec, read_mvtec),
    "visa": Layout(
        "CLASS/Data/{Images,Masks} and split_csv/1cls.csv",
        lambda root: (root / SPLIT_FILE).is_file(),
        read_visa,
    ),
    "mpdd": Layout(_MVTEC_SHAPE, _is_mpdd, read_mvtec),
    "btad": Layout(
        "CLASS/{train/ok, test/ok, test/ko, ground_truth/ko}",
        lambda root: bool(btad_classes(root)),
        read_btad,
    ),
    "kolektor_sdd2": Layout("{train,test}/{NNNNN.png, NNNNN_GT.png}", is_kolektor, read_kolektor),
    "real_iad": Layout(
        "realiad_RESOLUTION/CLASS and realiad_jsons/CLASS.json",
        lambda root: json_folder(root) is not None,
        read_real_iad,
    ),
    "folder": Layout(
        "normal, abnormal, normal_test and mask, or train/good, test and ground_truth",
        lambda root: is_plain_folder(root) or is_class_folder(root),
        read_folder,
    ),
}
"""By the names that `data.layout` has for them, besides `auto`."""


def read_dataset(root: str | Path, layout: str = AUTO, classes: Sequence[str] | None = None) -> Dataset:
    """Lists the images of the dataset in `root`; `auto` recognises its layout by what the folder holds.

    Raises:
        InputError: `root` is no folder, is not of the layout, or of none or several with `auto`; or the classes are at fault.
    """
    root = dataset_root(root)
    name = _recognise(root) if layout == AUTO else layout
    return replace(LAYOUTS[name].read(root, classes), layout=name)


def _recognise(root: Path) -> str:
    found = [name for name, layout in LAYOUTS.items() if layout.matches(root)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{root} could be read as {' or '.join(found)}; say which with data.layout", field="data.layout"
        )
    near = [sub for sub in subfolders(root) if any(layout.matches(sub) for layout in LAYOUTS.values())]
    if near:
        mend = f"did you mean {near[0]}?"
    elif other_case := _of_other_case(root):
        mend = f"rename {other_case} to {other_case.name.lower()}, as the case counts"
    else:
        mend = f"docs/data.md shows how {', '.join(LAYOUTS)} lie on disk"
    raise InputError(f"{root} holds no dataset of a known layout; {mend}", field="data.root")


def _of_other_case(root: Path) -> Path | None:
    """The first folder that a layout would have but for the case of its name."""
    try:
        folders = subfolders(root)
        folders += [sub for folder in folders for sub in subfolders(folder)]
        folders += [sub for folder in folders if folder.name.lower() in PARTS for sub in subfolders(folder)]
    except OSError:  # such as a folder that may not be read: there is no hint then
        return None
    wanted = {*PARTS, NORMAL, GOOD, OK}
    return next((sub for sub in folders if sub.name not in wanted and sub.name.lower() in wanted), None)
