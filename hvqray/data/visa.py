"""The layout of VisA as it is published: CLASS/Data/{Images,Masks} and the split in split_csv/1cls.csv.

Zou et al., "SPot-the-Difference Self-supervised Pre-training for Anomaly Detection and Segmentation", ECCV 2022. A mask holds small
integers, one a defect type, so that every value but 0 is anomalous.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from hvqray.data.dataset import GOOD, Dataset, Sample
from hvqray.data.files import NORMAL_ONLY, PARTS, choose_classes, inside
from hvqray.errors import InputError, counted

SPLIT_FILE = Path("split_csv", "1cls.csv")
_COLUMNS = ("object", "split", "label", "image", "mask")
_NORMAL, _ANOMALY = "normal", "anomaly"


def read_visa(root: Path, classes: Sequence[str] | None = None) -> Dataset:
    """Lists the images that the one-class split names, sorted by class, part, defect and file name.

    An anomalous image's defect type is what CLASS/image_anno.csv calls it (several types joined by `+`), else
    `anomaly`. Images and masks of the split that are not on disk are left out and told of.

    Raises:
        InputError: the split file is missing or not of this form, or `root` has no class of a given name.
    """
    split_file = root / SPLIT_FILE
    if not split_file.is_file():
        raise InputError(f"{root} has no {SPLIT_FILE}; give the unpacked VisA folder", field="data.root")
    rows = _read_rows(split_file)
    names = choose_classes(root, {row["object"] for row in rows if (root / row["object"]).is_dir()}, classes)
    types = {name: _defect_types(root / name / "image_anno.csv") for name in names}
    samples: list[Sample] = []
    missing_images = missing_masks = num_defective = 0
    for row in rows:
        if row["object"] not in types:
            continue
        image = inside(root, row["image"], source=split_file)
        anomalous = row["label"] == _ANOMALY
        if not image.is_file():
            missing_images += 1
        elif anomalous and row["split"] == "train":
            num_defective += 1
        else:
            mask = inside(root, row["mask"], source=split_file) if anomalous and row["mask"] else None
            if mask is not None and not mask.is_file():
                missing_masks += 1
                mask = None
            defect = types[row["object"]].get(row["image"], _ANOMALY) if anomalous else GOOD
            samples.append(
                Sample(image, row["object"], row["split"], defect, mask, mask_is_nonzero=mask is not None)
            )
    samples.sort(key=lambda sample: (sample.class_name, PARTS.index(sample.part), sample.defect, sample.path))
    remarks = []
    if missing_images:
        remarks.append(f"{counted(missing_images, 'image')} of {SPLIT_FILE} left out: not in the folder")
    if missing_masks:
        remarks.append(
            f"{counted(missing_masks, 'mask')} of {SPLIT_FILE} not in the folder: no pixel metrics for that class"
        )
    if num_defective:
        remarks.append(f"{counted(num_defective, 'defective training image')} not used: {NORMAL_ONLY}")
    return Dataset(
        root,
        tuple(names),
        tuple(samples),
        folders=tuple(root / name for name in names),
        remarks=tuple(f"{root}: {remark}" for remark in remarks),
    )


def _read_rows(split_file: Path) -> list[dict[str, str]]:
    with split_file.open(encoding="utf-8", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        if set(_COLUMNS) - set(reader.fieldnames or ()):
            raise InputError(
                f"has the columns {', '.join(reader.fieldnames or ()) or 'none'}; wanted {', '.join(_COLUMNS)}",
                source=str(split_file),
            )
        rows = []
        for row in reader:
            cells = {column: (row[column] or "").strip() for column in _COLUMNS}
            if cells["split"] not in PARTS or cells["label"] not in (_NORMAL, _ANOMALY) or not cells["image"]:
                raise InputError(
                    f"line {reader.line_num}: split {cells['split']!r} and label {cells['label']!r}; "
                    "wanted train or test, normal or anomaly, and an image",
                    source=str(split_file),
                )
            rows.append(cells)
    return rows


def _defect_types(annotations: Path) -> dict[str, str]:
    """Image (as in the split file) to its defect types joined by `+`; empty where there is no such file."""
    if not annotations.is_file():
        return {}
    with annotations.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = list(csv.DictReader(file))
    types = {}
    for row in rows:
        if row.get("image") and (label := row.get("label")) and label != _NORMAL:
            types[row["image"]] = "+".join(sorted({part.strip() for part in label.split(",")}))
    return types
