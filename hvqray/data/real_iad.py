"""The layout of Real-IAD: images in realiad_RESOLUTION/CLASS, the split in realiad_jsons/CLASS.json.

Wang et al., "Real-IAD: A Real-World Multi-View Dataset for Benchmarking Versatile Industrial Anomaly Detection", CVPR 2024. A
class's file is {"meta": {"normal_class": "OK", "prefix": "CLASS/", ...}, "train": [...], "test": [...]}, each entry {"category",
"anomaly_class", "image_path", "mask_path"}, with paths below the prefix and a null mask for a normal image. An object's five views are
OK/SNNNN/CLASS_NNNN_OK_C{1..5}_TIME.jpg, or NG/TYPE/SNNNN/... with a count of its own for each type.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, StringConstraints, ValidationError

from hvqray.data.dataset import GOOD, Dataset, Sample
from hvqray.data.files import NORMAL_ONLY, PARTS, choose_classes, inside, subfolders
from hvqray.errors import InputError, counted

_JSONS, _IMAGES = "realiad_jsons", "realiad_"
_OBJECT = re.compile(r"S\d+")

Text = Annotated[str, StringConstraints(min_length=1)]


class _Meta(BaseModel):
    normal_class: Text
    prefix: str


class _Entry(BaseModel):
    anomaly_class: Text
    image_path: Text
    mask_path: Text | None = None


class _ClassFile(BaseModel):
    """What is read of a class's JSON file; other keys are not needed."""

    meta: _Meta
    train: list[_Entry]
    test: list[_Entry]


def read_real_iad(root: Path, classes: Sequence[str] | None = None) -> Dataset:
    """Lists the images that the JSON files name, sorted by class, part, defect and file name; opens none of them.

    `root` is the folder that holds one of realiad_256, _512, _1024 or _raw, or such a folder itself. The defect type is the
    entry's `anomaly_class`; the views of one object, which lie in one folder, are one group. Images and masks that are not on disk are
    left out and told of.

    Raises:
        InputError: the JSON or image folder is missing or several would do, a JSON file is not of this form, or
            `root` has no class of a given name.
    """
    jsons = json_folder(root)
    if jsons is None:
        raise InputError(
            f"{root} has no {_JSONS} folder with CLASS.json in it; give the folder that holds it",
            field="data.root",
        )
    known = [path.stem for path in jsons.glob("*.json")]
    images = _image_folder(root, known)
    names = choose_classes(root, [name for name in known if (images / name).is_dir()], classes)
    samples: list[Sample] = []
    remarks: list[str] = []
    for name in names:
        of_class, class_remarks = _read_class(jsons / f"{name}.json", images, name)
        samples += of_class
        remarks += class_remarks
    return Dataset(
        root,
        tuple(names),
        tuple(samples),
        folders=tuple(images / name for name in names),
        remarks=tuple(remarks),
    )


def json_folder(root: Path) -> Path | None:
    """The folder of the JSON files: `realiad_jsons` in `root` or beside it, or the folder of that name in it; None without one."""
    places = [root, root.parent] if root.name.startswith(_IMAGES) else [root]
    for place in places:
        for folder in (place / _JSONS / _JSONS, place / _JSONS):
            if any(folder.glob("*.json")):
                return folder
    return None


def _image_folder(root: Path, known: Sequence[str]) -> Path:
    """Where the class folders lie: `root`, or the one realiad_RESOLUTION in it."""
    if any((root / name).is_dir() for name in known):
        return root
    found = [
        folder
        for folder in subfolders(root)
        if folder.name.startswith(_IMAGES) and any((folder / name).is_dir() for name in known)
    ]
    if len(found) != 1:
        what = ", ".join(folder.name for folder in found) or "none"
        raise InputError(
            f"{root} must hold one folder of images, such as {_IMAGES}1024, and holds {what}; give the one that is meant",
            field="data.root",
        )
    return found[0]


def _read_class(file: Path, images: Path, name: str) -> tuple[list[Sample], list[str]]:
    try:
        content = _ClassFile.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"is not of Real-IAD's form ({first['msg']}); replace it", source=str(file), field=place or None
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error}); replace it", source=str(file)) from None
    folder = inside(images, content.meta.prefix, source=file)
    samples = []
    missing_images = missing_masks = num_defective = 0
    for part, entries in zip(PARTS, (content.train, content.test), strict=True):
        for entry in entries:
            image = inside(folder, entry.image_path, source=file)
            is_good = entry.anomaly_class == content.meta.normal_class
            if not image.is_file():
                missing_images += 1
            elif part == "train" and not is_good:
                num_defective += 1
            else:
                mask = None
                if not is_good and entry.mask_path is not None:
                    mask = inside(folder, entry.mask_path, source=file)
                    if not mask.is_file():
                        missing_masks += 1
                        mask = None
                defect = GOOD if is_good else entry.anomaly_class
                samples.append(Sample(image, name, part, defect, mask, group=_object(entry.image_path)))
    samples.sort(key=lambda sample: (PARTS.index(sample.part), sample.defect, sample.path))
    remarks = []
    if missing_images:
        remarks.append(f"{counted(missing_images, 'image')} left out: not on disk")
    if missing_masks:
        remarks.append(f"{counted(missing_masks, 'mask')} not on disk: no pixel metrics for this class")
    if num_defective:
        remarks.append(f"{counted(num_defective, 'defective training image')} not used: {NORMAL_ONLY}")
    return samples, [f"{file}: {remark}" for remark in remarks]


def _object(image_path: str) -> str | None:
    """The folder of an object's views; None where an image does not lie in such a folder."""
    folder = PurePosixPath(image_path).parent
    return str(folder) if _OBJECT.fullmatch(folder.name) else None
