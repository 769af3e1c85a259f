"""How many images the known datasets have, as published, and how a copy on disk differs from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from hvqray.data.dataset import Dataset
from hvqray.data.files import VALIDATION


class Counts(NamedTuple):
    """Images of a class, or of a whole dataset."""

    train_good: int
    test_good: int
    test_defect: int


@dataclass(frozen=True)
class Published:
    """What is known of a dataset."""

    title: str
    source: str
    """Where the numbers are from."""
    classes: Mapping[str, Counts | None]
    """None where the source has no number for this class alone."""
    total: Counts


def _of_classes(title: str, source: str, classes: Mapping[str, Counts]) -> Published:
    total = Counts(*(sum(column) for column in zip(*classes.values(), strict=True)))
    return Published(title, source, classes, total)


PUBLISHED = {
    "mvtec_ad": _of_classes(
        "MVTec AD",
        "Bergmann et al., CVPR 2019, table 1",
        {
            "bottle": Counts(209, 20, 63),
            "cable": Counts(224, 58, 92),
            "capsule": Counts(219, 23, 109),
            "carpet": Counts(280, 28, 89),
            "grid": Counts(264, 21, 57),
            "hazelnut": Counts(391, 40, 70),
            "leather": Counts(245, 32, 92),
            "metal_nut": Counts(220, 22, 93),
            "pill": Counts(267, 26, 141),
            "screw": Counts(320, 41, 119),
            "tile": Counts(230, 33, 84),
            "toothbrush": Counts(60, 12, 30),
            "transistor": Counts(213, 60, 40),
            "wood": Counts(247, 19, 60),
            "zipper": Counts(240, 32, 119),
        },
    ),
    "visa": _of_classes(
        "VisA",
        "split_csv/1cls.csv of the dataset, Zou et al., ECCV 2022",
        {
            "candle": Counts(900, 100, 100),
            "capsules": Counts(542, 60, 100),
            "cashew": Counts(450, 50, 100),
            "chewinggum": Counts(453, 50, 100),
            "fryum": Counts(450, 50, 100),
            "macaroni1": Counts(900, 100, 100),
            "macaroni2": Counts(900, 100, 100),
            "pcb1": Counts(904, 100, 100),
            "pcb2": Counts(901, 100, 100),
            "pcb3": Counts(905, 101, 100),
            "pcb4": Counts(904, 101, 100),
            "pipe_fryum": Counts(450, 50, 100),
        },
    ),
    "mpdd": _of_classes(
        "MPDD",
        "Jezek et al., ICUMT 2021",
        {
            "bracket_black": Counts(289, 32, 47),
            "bracket_brown": Counts(185, 26, 51),
            "bracket_white": Counts(110, 30, 30),
            "connector": Counts(128, 30, 14),
            "metal_plate": Counts(54, 26, 71),
            "tubes": Counts(122, 32, 69),
        },
    ),
    "btad": _of_classes(
        "BTAD",
        "the published archive of Mishra et al., ISIE 2021",
        {"01": Counts(400, 21, 49), "02": Counts(399, 30, 200), "03": Counts(1000, 400, 41)},
    ),
    "kolektor_sdd2": _of_classes(
        "KolektorSDD2",
        "Božič et al., Computers in Industry 2021",
        {"kolektor_sdd2": Counts(2085, 894, 110)},
    ),
    "real_iad": Published(
        "Real-IAD",
        "Wang et al., CVPR 2024, unsupervised protocol",
        dict.fromkeys(
            [
                "audiojack",
                "bottle_cap",
                "button_battery",
                "end_cap",
                "eraser",
                "fire_hood",
                "mint",
                "mounts",
                "pcb",
                "phone_battery",
                "plastic_nut",
                "plastic_plug",
                "porcelain_doll",
                "regulator",
                "rolled_strip_base",
                "sim_card_set",
                "switch",
                "tape",
                "terminalblock",
                "toothbrush",
                "toy",
                "toy_brick",
                "transistor1",
                "u_block",
                "usb",
                "usb_adaptor",
                "vcpill",
                "wooden_beads",
                "woodstick",
                "zipper",
            ]
        ),
        Counts(36465, 63256, 51329),
    ),
}
"""By the name of the layout in which each is published."""


def differences(dataset: Dataset, *, named: bool, all_classes: bool) -> list[str]:
    """How a known dataset's classes differ from what is published, one line each; none for other datasets.

    A dataset counts as known where it has two classes or more that all bear names of one published dataset (all of its
    names, where it has one only), or where `named`, that is, `data.layout` says so. With `all_classes` a class that is
    not there is a difference, too.
    """
    published = _published_as(dataset, named)
    if published is None:
        return []
    origin = f"{published.title} ({published.source})"
    names = [name for name in dataset.class_names if name in published.classes]
    if not names:
        return [f"{dataset.root}: no class of {origin}, so no image counts are checked"]
    lines = []
    if unknown := [name for name in dataset.class_names if name not in published.classes]:
        lines.append(f"{dataset.root}: {', '.join(unknown)}: not among the classes of {origin}")
    missing = sorted(published.classes.keys() - set(names))
    if missing and all_classes:
        lines.append(
            f"{dataset.root}: {len(missing)} of the {len(published.classes)} classes of {origin} are missing:"
            f" {', '.join(missing)}"
        )
    found = _counts(dataset)
    lines += [
        f"{dataset.root}: class {name} has {_told(found[name])}; {origin} has {_told(expected)}"
        for name in names
        if (expected := published.classes[name]) is not None and found[name] != expected
    ]
    # Where the source has no number for a class, only the whole can be compared.
    total = Counts(*(sum(column) for column in zip(*found.values(), strict=True)))
    if None in published.classes.values() and not missing and not unknown and total != published.total:
        lines.append(f"{dataset.root}: {_told(total)} in all; {origin} has {_told(published.total)}")
    return lines


def _published_as(dataset: Dataset, named: bool) -> Published | None:
    names = set(dataset.class_names)
    for published in PUBLISHED.values():
        if names == published.classes.keys() or (len(names) > 1 and names < published.classes.keys()):
            return published
    return PUBLISHED.get(dataset.layout) if named else None


def _counts(dataset: Dataset) -> dict[str, Counts]:
    found = {name: [0, 0, 0] for name in dataset.class_names}
    for sample in dataset.samples:
        if sample.part != VALIDATION:
            found[sample.class_name][0 if sample.part == "train" else 1 + sample.is_anomalous] += 1
    return {name: Counts(*numbers) for name, numbers in found.items()}


def _told(counts: Counts) -> str:
    return f"{counts.train_good} train good, {counts.test_good} test good, {counts.test_defect} test defect images"
