"""The built-in synthetic set: seeded product images with defects and exact masks, written in the MVTec AD layout."""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image

from hvqray.data.dataset import GOOD
from hvqray.data.progress import Progress, silent
from hvqray.data.rendering import photograph
from hvqray.data.synthetic_objects import circuit, nut, pill
from hvqray.data.synthetic_textures import brushed_metal, fabric, wood

SYNTHETIC_VERSION = 2
"""Raise it whenever the same seed would give other images."""
IMAGE_SIZE = 224

Renderer = Callable[[np.random.Generator, int, str | None], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Product:
    """How one class is drawn: `render(rng, size, defect)` gives image (S, S, 3) float in [0, 1] and mask (S, S) bool."""

    render: Renderer
    defects: tuple[str, ...]


PRODUCTS = {
    "brushed_metal": Product(brushed_metal, ("corrosion", "dent", "rubbed", "scratch")),
    "circuit": Product(circuit, ("bridge", "misplaced", "missing_pad", "open_trace", "scratch")),
    "fabric": Product(fabric, ("loose_thread", "missing_thread", "misweave", "stain")),
    "nut": Product(nut, ("bent", "chip", "crack", "rust", "scratch")),
    "pill": Product(pill, ("contamination", "crack", "dent", "discoloured", "faulty_imprint")),
    "wood": Product(wood, ("crack", "hole", "liquid", "scratch")),
}


def synthetic_name(seed: int) -> str:
    """Folder name of the set; the version is in it, so that an older one is never taken for it."""
    return f"synthetic-v{SYNTHETIC_VERSION}-seed{seed}"


def write_synthetic(
    folder: str | Path,
    seed: int = 0,
    *,
    num_train: int = 36,
    num_test_good: int = 18,
    num_test_defect: int = 20,
    progress: Progress = silent,
) -> Path:
    """Writes the set to `folder` unless it is there, and returns it; counts are per class, images 224 x 224 PNG.

    The folder appears whole or not at all: it is written aside and renamed; of several processes, one writes.
    Every image has its own seed, made of `seed`, class, part and number.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            os.utime(folder)  # when it was last used, for the cache's limit
            return folder
        for leftover in folder.parent.glob(f".{folder.name}.part-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.part-", dir=folder.parent))
        total = len(PRODUCTS) * (num_train + num_test_good + num_test_defect)
        done = 0
        for name, product in PRODUCTS.items():
            kinds: list[tuple[str, str | None, int]] = [
                ("train", None, num_train),
                ("test", None, num_test_good),
            ]
            for first, defect in enumerate(product.defects):
                kinds.append(("test", defect, len(range(first, num_test_defect, len(product.defects)))))
            for part, kind, count in kinds:
                _write_part(aside / name, product, part, kind, count, seed)
                done += count
                progress("drawing the synthetic set", done, total)
        aside.chmod(0o755)  # mkdtemp makes it private
        aside.rename(folder)
    return folder


def _write_part(folder: Path, product: Product, part: str, defect: str | None, count: int, seed: int) -> None:
    images = folder / part / (defect or GOOD)
    images.mkdir(parents=True)
    masks = folder / "ground_truth" / defect if defect else None
    if masks is not None:
        masks.mkdir(parents=True)
    for number in range(count):
        identity = zlib.crc32(f"{folder.name}/{part}/{defect or GOOD}/{number}".encode())
        image, mask = _render(product, np.random.default_rng([seed, identity]), defect)
        Image.fromarray(image).save(images / f"{number:03d}.png", compress_level=1)
        if masks is not None:
            Image.fromarray(mask.astype(np.uint8) * 255).save(masks / f"{number:03d}_mask.png")


def _render(product: Product, rng: np.random.Generator, defect: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Draws until the defect shows: some land where they would be hidden (a chip on the background)."""
    while True:
        image, mask = product.render(rng, IMAGE_SIZE, defect)
        if defect is None or mask.sum() >= 20:
            return photograph(rng, image), mask
