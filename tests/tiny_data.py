"""A dataset in memory, small enough to train on in a second: features of three classes, with faults to be found."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hvqray.data.dataset import PreparedData, Sample, Split
from hvqray.models.context import ModelContext

CHANNELS, GRID, SIZE = 8, 4, 32


def tiny_data(*, counts: tuple[int, ...] = (14, 9, 5), seed: int = 0) -> PreparedData:
    """`counts` training images per class, four normal and four anomalous images per class in val and in test."""
    rng = np.random.default_rng(seed)
    names = tuple(f"class{c}" for c in range(len(counts)))
    prototypes = rng.normal(size=(len(counts), CHANNELS, GRID, GRID))
    samples: list[Sample] = []
    features, masks, labels = [], [], []
    members: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for c, count in enumerate(counts):
        for split, num, anomalous in (
            ("train", count, False),
            ("val", 4, False),
            ("val", 4, True),
            ("test", 4, False),
            ("test", 4, True),
        ):
            for i in range(num):
                feature = prototypes[c] + 0.3 * rng.normal(size=(CHANNELS, GRID, GRID))
                mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
                if anomalous:
                    row, column = rng.integers(GRID - 1, size=2)
                    feature[:, row : row + 2, column : column + 2] += rng.normal(size=(CHANNELS, 1, 1))
                    cell = SIZE // GRID
                    mask[row * cell : (row + 2) * cell, column * cell : (column + 2) * cell] = 1
                members[split].append(len(samples))
                defect = "bump" if anomalous else "good"
                part = "train" if split == "train" else "test"
                samples.append(
                    Sample(Path(f"{names[c]}/{part}/{defect}/{split}{i}.png"), names[c], part, defect)
                )
                features.append(feature)
                masks.append(mask)
                labels.append(c)
    all_features = np.asarray(features, dtype=np.float16)
    all_masks = np.asarray(masks)
    all_images = rng.integers(0, 256, size=(len(samples), 3, SIZE, SIZE), dtype=np.uint8)

    def split_of(name: str) -> Split:
        rows = np.asarray(members[name], dtype=np.int64)
        chosen = tuple(samples[row] for row in rows)
        return Split(
            name=name,
            samples=chosen,
            class_index=np.asarray(labels, dtype=np.int64)[rows],
            is_anomalous=np.asarray([sample.is_anomalous for sample in chosen]),
            has_mask=np.ones(len(rows), dtype=bool),
            rows=rows,
            all_features=all_features,
            all_images=all_images,
            all_masks=all_masks,
        )

    return PreparedData(
        context=ModelContext(names, CHANNELS, (GRID, GRID), SIZE),
        splits={name: split_of(name) for name in members},
        fingerprint=f"tiny-{seed}",
        selected_on_test=False,
    )
