"""Whether a resumed sweep is on the data that it was begun with, and one sweep on the images of another: figures on others would be held
against each other."""

from __future__ import annotations

import os
from pathlib import Path

from hvqray.data.dataset import PreparedData
from hvqray.data.digests import digest_texts
from hvqray.errors import InputError
from hvqray.results.history import DataRecord
from hvqray.results.stored_trials import read_info


def data_record(data: PreparedData) -> DataRecord:
    """What a sweep writes down of its data."""
    samples = [(name, sample) for name, split in data.splits.items() for sample in split.samples]
    root = os.path.commonpath([sample.path for _, sample in samples])
    members = sorted(
        f"{name} {sample.class_name} {sample.defect} {sample.path.relative_to(root).as_posix()}"
        for name, sample in samples
    )
    return DataRecord(
        classes=list(data.context.class_names),
        num_images={name: len(split) for name, split in data.splits.items()},
        splits=digest_texts(members),
        fingerprint=data.fingerprint,
    )


def check_same_data(data: PreparedData, folder: Path) -> None:
    """Raise InputError where the sweep in `folder` was begun with others, as far as it wrote them down."""
    then, now = read_info(folder).data, data_record(data)
    if then is None or then == now:
        return
    raise InputError(
        f"the data differ from what the sweep was begun with ({_difference(then, now)}); restore them, or begin another sweep with"
        " --set name=NAME",
        source=str(folder),
    )


def check_same_images(folder: Path, other: Path) -> None:
    """Raise InputError where the sweeps in two folders are on other images or splits, or do not say on which.

    Backbones and image sizes may differ.
    """
    here, there = read_info(folder).data, read_info(other).data
    for record, source in ((here, folder), (there, other)):
        if record is None:
            raise InputError(
                "does not say which images it is on; go on with it by --resume, which writes them down",
                source=str(source),
            )
    assert here is not None
    assert there is not None
    if (here.classes, here.splits) != (there.classes, there.splits):
        one, two = _told(here), _told(there)
        how = f"{two}, there {one}" if one != two else "as many, but others, or in other splits"
        raise InputError(
            f"is on other images than {folder} ({how}); give a sweep on the same data with the same data.validation",
            source=str(other),
        )


def _told(record: DataRecord) -> str:
    counts = ", ".join(f"{name} {number}" for name, number in record.num_images.items())
    return f"{counts} of {', '.join(record.classes)}"


def _difference(then: DataRecord, now: DataRecord) -> str:
    if then.classes != now.classes:
        gone = [name for name in then.classes if name not in now.classes]
        new = [name for name in now.classes if name not in then.classes]
        parts = [
            f"{'classes' if len(names) > 1 else 'class'} {', '.join(names)} {what}"
            for names, what in ((gone, "no longer there"), (new, "new"))
            if names
        ]
        return "; ".join(parts) or "the classes in another order"
    if then.num_images != now.num_images:
        return "; ".join(
            f"{name}: {then.num_images.get(name, 0)} images then, {number} now"
            for name, number in now.num_images.items()
            if number != then.num_images.get(name)
        )
    if then.splits != now.splits:
        return "as many images, but others, or in other splits"
    return "the same images by name, but what they hold, the backbone's weights or how this version of hvqray reads them is not the same"
