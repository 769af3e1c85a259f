"""A tiny dataset in the MVTec AD layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLASSES = ("bolt", "cloth")
DEFECTS = ("cut", "dent")


def save_noise(path: Path, seed: int, *, size: tuple[int, int] = (40, 32)) -> None:
    """Writes an image of noise, `size` = (width, height), which no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


def save_mask(path: Path, *, size: tuple[int, int] = (40, 32), value: int = 255) -> None:
    """Writes a mask whose upper left quarter is `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[: size[1] // 2, : size[0] // 2] = value
    Image.fromarray(mask).save(path)


@pytest.fixture
def mvtec_root(tmp_path: Path) -> Path:
    """Two classes, each with 5 train, 4 test good, and 3 images of each of two defects with masks."""
    root = tmp_path / "parts"
    seed = 0
    for name in CLASSES:
        for part, defect, count in (
            ("train", "good", 5),
            ("test", "good", 4),
            ("test", "cut", 3),
            ("test", "dent", 3),
        ):
            for number in range(count):
                seed += 1
                save_noise(root / name / part / defect / f"{number:02d}.png", seed)
                if defect != "good":
                    save_mask(root / name / "ground_truth" / defect / f"{number:02d}_mask.png")
    return root


@pytest.fixture
def with_validation(mvtec_root: Path) -> Path:
    """Class bolt with a validation part of its own: two normal images, a dent, and two cuts of which one is called like one of `test`."""
    own = mvtec_root / "bolt" / "validation"
    for seed, name in enumerate(("good/00", "good/01", "dent/v0", "cut/00", "cut/v1")):
        save_noise(own / f"{name}.png", 900 + seed)
    save_mask(own / "ground_truth" / "cut" / "00_mask.png")
    for name in ("dent/v0", "cut/v1"):
        save_mask(mvtec_root / "bolt" / "ground_truth" / f"{name}_mask.png")
    return mvtec_root
