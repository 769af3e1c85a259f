"""Which images are `train`, `val` and `test`."""

from __future__ import annotations

import zlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from hvqray.config.data_sections import ValidationConfig
from hvqray.data.dataset import Dataset, Sample
from hvqray.data.files import VALIDATION
from hvqray.data.groups import group_names, matches_any
from hvqray.errors import InputError

SYNTHETIC = "synthetic"
"""Defect type of the synthetic defects of `validation: {from: synthetic}`."""

SplitName = Literal["train", "val", "test"]
Group = list[int]
"""Rows of images that stay together."""


@dataclass(frozen=True)
class Splits:
    """Samples as they will be cached, and the positions of each split among them."""

    samples: tuple[Sample, ...]
    """Those of the dataset, in its order; with `from: synthetic` some have become synthetic defects."""
    rows: dict[SplitName, np.ndarray]
    """int64, ascending."""
    selected_on_test: bool


def make_splits(dataset: Dataset, config: ValidationConfig) -> Splits:
    """Makes `train`, `val` and `test`; `train` holds normal images only, and shares none with the others.

    A class's split depends on its own images and the seed alone, so choosing fewer classes does not change it. A class's own `validation` is its
    `val`; where it lacks normal images or defects, `from` says whence these come. With `none` it is not used.

    Raises:
        InputError: a class has no training image, or too few images for its share of `val`; or no image is in a group.
    """
    assert config.fraction is not None
    samples = list(dataset.samples)
    if samples and config.group is not None and not matches_any(samples, config.group):
        raise InputError(
            f"{config.group!r} matches no image's name, such as {samples[0].path.stem!r}; mend it, or leave it out",
            field="data.validation.group",
        )
    group_of = group_names(samples, config.group)
    train: list[int] = []
    val: list[int] = []
    test: list[int] = []
    for name in dataset.class_names:
        rng = np.random.default_rng([config.seed, zlib.crc32(name.encode())])
        of_class = [row for row, sample in enumerate(samples) if sample.class_name == name]
        class_train = [row for row in of_class if samples[row].part == "train"]
        own = [row for row in of_class if samples[row].part == VALIDATION]
        labels = {samples[row].is_anomalous for row in own}
        class_test = [row for row in of_class if samples[row].part == "test"]
        class_val: list[int] = []
        if config.from_ != "none" and labels == {False, True}:
            class_val = own
        elif config.from_ == "test":
            groups = _together(class_test, group_of)
            chosen = _choose_from_test(samples, groups, config.fraction, rng, has=labels)
            class_val = sorted({*own, *chosen})
            class_test = sorted(set(class_test) - set(chosen))
        elif config.from_ == "synthetic":
            if labels == {False}:
                held = [own[position] for position in rng.permutation(len(own))]
            else:
                held = _choose_from_train(name, _together(class_train, group_of), config.fraction, rng)
            class_train = sorted(set(class_train) - set(held))
            class_val = sorted({*own, *held})
            for row in held[::2]:
                samples[row] = replace(
                    samples[row], defect=SYNTHETIC, synthetic_seed=int(rng.integers(2**31))
                )
        if not class_train:
            raise InputError(
                f"class {name!r} has no training image in train/good", source=str(dataset.root / name)
            )
        train += class_train
        val += class_val
        test += class_test
    if config.from_ == "none":
        val = test
    rows: dict[SplitName, np.ndarray] = {
        "train": np.array(sorted(train), np.int64),
        "val": np.array(sorted(val), np.int64),
        "test": np.array(sorted(test), np.int64),
    }
    return Splits(tuple(samples), rows, selected_on_test=config.from_ == "none")


def _together(rows: list[int], group_of: list[str]) -> list[Group]:
    """The groups of `rows`, in the order of their first rows."""
    found: dict[str, Group] = {}
    for row in rows:
        found.setdefault(group_of[row], []).append(row)
    return list(found.values())


def _choose_from_test(
    samples: list[Sample],
    groups: list[Group],
    fraction: float,
    rng: np.random.Generator,
    *,
    has: Collection[bool],
) -> list[int]:
    """Takes `fraction` of the groups with good images, with defects, and with both; evenly over the defect types.

    None of images that are anomalous or not as those that `val` `has` already.
    """

    def defects(group: Group) -> list[str]:
        return sorted({samples[row].defect for row in group})

    chosen: list[int] = []
    strata: list[set[bool]] = [{label} for label in (False, True) if label not in has]
    for labels in (*strata, {False, True}):
        stratum = [group for group in groups if {samples[row].is_anomalous for row in group} == labels]
        shuffled = [stratum[position] for position in rng.permutation(len(stratum))]
        for group in _sample_systematically(sorted(shuffled, key=defects), fraction, rng):
            chosen += group
    return sorted(chosen)


def _choose_from_train(
    name: str, groups: list[Group], fraction: float, rng: np.random.Generator
) -> list[int]:
    """Takes about `fraction` of the normal training images, at least two (one stays normal), in random order."""
    num_images = sum(map(len, groups))
    wanted = max(round(fraction * num_images), 2)
    shuffled = [groups[position] for position in rng.permutation(len(groups))]
    chosen: list[int] = []
    for group in shuffled:  # a large group is left to `train` rather than taken beyond what is wanted
        if len(chosen) + len(group) <= min(wanted, num_images - 1):
            chosen += group
    if len(chosen) < 2 and len(groups) > 1:
        chosen = min(shuffled, key=lambda group: (len(group) < 2, len(group)))
    if len(chosen) < 2:
        in_groups = f" in {len(groups)} groups" if len(groups) < num_images else ""
        raise InputError(
            f"'synthetic' takes at least 2 of a class's training images and leaves at least 1; class {name!r} has"
            f" {num_images}{in_groups}; use 'test' or 'none'",
            field="data.validation.from",
        )
    return chosen


def _sample_systematically(groups: list[Group], fraction: float, rng: np.random.Generator) -> list[Group]:
    """Takes every 1/fraction-th group from a random start: each run of equal strata gives its share to within one.

    Of two groups or more, at least one is taken and at least one is left.
    """
    steps = np.floor(np.arange(len(groups) + 1) * fraction + rng.random())
    chosen = np.flatnonzero(np.diff(steps) > 0)
    if len(groups) >= 2 and not 0 < len(chosen) < len(groups):
        chosen = (
            np.delete(chosen, rng.integers(len(groups))) if len(chosen) else rng.integers(len(groups), size=1)
        )
    return [groups[position] for position in chosen]
