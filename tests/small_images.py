"""A dataset on disk in the MVTec AD layout, and a sweep file that searches on it in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 64

SPACE = """\
description: a search that takes seconds
method: random
metric: {name: val/image_auroc, goal: maximize}
run_cap: 3
parameters:
  model.codebook_size: {values: [4, 8]}
  train.lr: {distribution: log_uniform_values, min: 1e-3, max: 1e-2}
model: {name: hvq, width: 16, num_heads: 2, feedforward_width: 32, hierarchy_depth: 1, score_pool_size: 4}
data: {image_size: 64, backbone: {weights: random, strides: [8, 16]}}
train: {epochs: 2, batch_size: 4, precision: fp32}
baselines: []
"""


def write_small_images(root: Path, *, seed: int = 0) -> Path:
    """Two classes, each with 8 training images, 6 normal and 6 defective test images with masks."""
    rng = np.random.default_rng(seed)
    for number, name in enumerate(("bolt", "cloth")):
        base = (
            rng.integers(60, 160, size=(8, 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
            if number
            else np.full((SIZE, SIZE, 3), 120)
        )
        for part, defect, count in (("train", "good", 8), ("test", "good", 6), ("test", "hole", 6)):
            for i in range(count):
                image = base + rng.normal(0, 8, size=(SIZE, SIZE, 3))
                folder = root / name / part / defect
                folder.mkdir(parents=True, exist_ok=True)
                if defect != "good":
                    row, column = rng.integers(8, 40, size=2)
                    image[row : row + 16, column : column + 16] = 250
                    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
                    mask[row : row + 16, column : column + 16] = 255
                    masks = root / name / "ground_truth" / defect
                    masks.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask).save(masks / f"{i:03d}_mask.png")
                Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{i:03d}.png")
    return root


def write_space(folder: Path, text: str = SPACE) -> Path:
    """The sweep file in `folder`."""
    path = folder / "small.yaml"
    path.write_text(text)
    return path
