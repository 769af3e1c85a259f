"""Which images are `train`, `val` and `test`."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from hvqray.config.sections import ValidationConfig
from hvqray.data.dataset import Dataset, Sample
from hvqray.errors import InputError

SYNTHETIC = "synthetic"
"""Defect type of the synthetic defects of `validation: {from: synthetic}`."""

SplitName = Literal["train", "val", "test"]


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

    A class's split depends on its own images and the seed alone, so choosing fewer classes does not change it.

    Raises:
        InputError: a class has no training image, or too few images for its share of `val`.
    """
    samples = list(dataset.samples)
    train: list[int] = []
    val: list[int] = []
    test: list[int] = []
    for name in dataset.class_names:
        rng = np.random.default_rng([config.seed, zlib.crc32(name.encode())])
        of_class = [row for row, sample in enumerate(samples) if sample.class_name == name]
        class_train = [row for row in of_class if samples[row].part == "train"]
        class_test = [row for row in of_class if samples[row].part == "test"]
        class_val: list[int] = []
        if config.from_ == "test":
            class_val = _choose_from_test(samples, class_test, config.fraction, rng)
            class_test = sorted(set(class_test) - set(class_val))
        elif config.from_ == "synthetic":
            class_val = _choose_from_train(name, class_train, config.fraction, rng)
            class_train = sorted(set(class_train) - set(class_val))
            for row in class_val[::2]:
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


def _choose_from_test(
    samples: list[Sample], rows: list[int], fraction: float, rng: np.random.Generator
) -> list[int]:
    """Takes `fraction` of the good and of the defect images, the latter spread evenly over the defect types."""
    chosen: list[int] = []
    for is_anomalous in (False, True):
        stratum = [row for row in rows if samples[row].is_anomalous == is_anomalous]
        shuffled = rng.permutation(np.array(stratum, np.int64)).tolist()
        by_defect = sorted(shuffled, key=lambda row: samples[row].defect)
        chosen += _sample_systematically(by_defect, fraction, rng)
    return sorted(chosen)


def _choose_from_train(name: str, rows: list[int], fraction: float, rng: np.random.Generator) -> list[int]:
    """Takes `fraction` of the normal training images, at least two (one stays normal), in random order."""
    if len(rows) < 3:
        raise InputError(
            f"'synthetic' takes at least 2 of a class's training images and class {name!r} has {len(rows)}; "
            "use 'test' or 'none'",
            field="data.validation.from",
        )
    num_chosen = min(max(round(fraction * len(rows)), 2), len(rows) - 1)
    return rng.permutation(np.array(rows, np.int64))[:num_chosen].tolist()


def _sample_systematically(rows: list[int], fraction: float, rng: np.random.Generator) -> list[int]:
    """Takes every 1/fraction-th row from a random start: each run of equal strata gives its share to within one.

    Of two rows or more, at least one is taken and at least one is left.
    """
    steps = np.floor(np.arange(len(rows) + 1) * fraction + rng.random())
    chosen = np.flatnonzero(np.diff(steps) > 0)
    if len(rows) >= 2 and not 0 < len(chosen) < len(rows):
        chosen = (
            np.delete(chosen, rng.integers(len(rows))) if len(chosen) else rng.integers(len(rows), size=1)
        )
    return [rows[position] for position in chosen]
