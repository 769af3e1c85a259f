"""Tiny copies of the layouts in which datasets are published, drawn with noise."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (40, 32)
"""Width and height of every image."""


class Copy:
    """Writes images, none like another, and masks below a root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._seeds = itertools.count(1)

    def image(self, path: str) -> None:
        """An image of noise."""
        pixels = np.random.default_rng(next(self._seeds)).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
        self._save(pixels, path)

    def mask(self, path: str, *, value: int = 255) -> None:
        """A mask whose upper left quarter is `value`."""
        mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
        mask[: SIZE[1] // 2, : SIZE[0] // 2] = value
        self._save(mask, path)

    def _save(self, pixels: np.ndarray, path: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(self.root / path)


def write_mvtec(root: Path, names: tuple[str, ...]) -> None:
    """As MVTec AD and MPDD: 3 train good, 2 test good, 2 scratches a class."""
    copy = Copy(root)
    for name in names:
        for number in range(3):
            copy.image(f"{name}/train/good/{number:03d}.png")
        for number in range(2):
            copy.image(f"{name}/test/good/{number:03d}.png")
            copy.image(f"{name}/test/scratches/{number:03d}.png")
            copy.mask(f"{name}/ground_truth/scratches/{number:03d}_mask.png")


def write_visa(root: Path, names: tuple[str, ...] = ("candle", "pcb1")) -> None:
    """As VisA: 3 train normal, 2 test normal, 2 test anomaly a class, masks of 1 and 2; the first has type names."""
    copy = Copy(root)
    rows = []
    for name in names:
        for number in range(5):
            image = f"{name}/Data/Images/Normal/{number:04d}.JPG"
            copy.image(image)
            rows.append((name, "train" if number < 3 else "test", "normal", image, ""))
        for number in range(2):
            image, mask = (
                f"{name}/Data/{part}"
                for part in (f"Images/Anomaly/{number:03d}.JPG", f"Masks/Anomaly/{number:03d}.png")
            )
            copy.image(image)
            copy.mask(mask, value=number + 1)
            rows.append((name, "test", "anomaly", image, mask))
    _write_csv(root / "split_csv" / "1cls.csv", ("object", "split", "label", "image", "mask"), rows)
    annotations = [
        (image, {"000.JPG": "melt", "001.JPG": "wax, melt"}.get(Path(image).name, "normal"), mask)
        for name, _, _, image, mask in rows
        if name == names[0]
    ]
    _write_csv(root / names[0] / "image_anno.csv", ("image", "label", "mask"), annotations)


def write_btad(root: Path) -> None:
    """As BTAD: 3 train ok, 2 test ok, 2 test ko a class; class 01 has BMP images with PNG masks."""
    copy = Copy(root)
    for name in ("01", "02", "03"):
        suffix = "bmp" if name == "01" else "png"
        for number in range(3):
            copy.image(f"{name}/train/ok/{number:04d}.{suffix}")
        for number in range(2):
            copy.image(f"{name}/test/ok/{number:04d}.{suffix}")
            copy.image(f"{name}/test/ko/{number:04d}.{suffix}")
            copy.mask(f"{name}/ground_truth/ko/{number:04d}.png")


def write_kolektor(root: Path) -> None:
    """As KolektorSDD2, its stray copies included: 3 normal and 1 defective in train, 2 and 2 in test."""
    copy = Copy(root)
    for part, labels in (("train", (0, 0, 255, 0)), ("test", (0, 255, 255, 0))):
        for number, value in enumerate(labels, start=10000 if part == "train" else 20000):
            copy.image(f"{part}/{number}.png")
            copy.mask(f"{part}/{number}_GT.png", value=value)
    copy.image("train/10301 (copy).png")
    copy.mask("train/10301_GT (copy).png", value=0)


def write_real_iad(root: Path, names: tuple[str, ...] = ("audiojack", "toy")) -> None:
    """As Real-IAD at 256 pixels: 3 train OK, 2 test OK, 1 test of each of two defects a class."""
    copy = Copy(root / "realiad_256")
    for name in names:
        train = [_real_iad_entry(copy, name, "OK", number) for number in range(3)]
        test = [_real_iad_entry(copy, name, "OK", number) for number in (3, 4)]
        test += [
            _real_iad_entry(copy, name, kind, number) for number, kind in enumerate(("HS", "QS"), start=5)
        ]
        content = {
            "meta": {"pre_transform": None, "prefix": f"{name}/", "normal_class": "OK"},
            "train": train,
            "test": test,
        }
        file = root / "realiad_jsons" / "realiad_jsons" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))


def _real_iad_entry(copy: Copy, name: str, kind: str, number: int) -> dict[str, str | None]:
    folder = f"OK/S{number:04d}" if kind == "OK" else f"NG/{kind}/S{number:04d}"
    stem = f"{folder}/{name}_{number:04d}_{'OK' if kind == 'OK' else 'NG'}_C1"
    copy.image(f"{name}/{stem}.jpg")
    if kind != "OK":
        copy.mask(f"{name}/{stem}.png")
    return {
        "category": name,
        "anomaly_class": kind,
        "image_path": f"{stem}.jpg",
        "mask_path": None if kind == "OK" else f"{stem}.png",
    }


def write_plain(root: Path, *, normal: int = 5, normal_test: int = 2) -> None:
    """A plain folder: so many normal images, one loose defect image and one of type dent, both with masks."""
    copy = Copy(root)
    for number in range(normal):
        copy.image(f"normal/{number:02d}.png")
    for number in range(normal_test):
        copy.image(f"normal_test/{number:02d}.png")
    copy.image("abnormal/00.png")
    copy.mask("mask/00.png")
    copy.image("abnormal/dent/00.png")
    copy.mask("mask/dent/00_mask.png")


WRITERS = {
    "mvtec_ad": lambda root: write_mvtec(root, ("bottle", "own")),
    "visa": write_visa,
    "mpdd": lambda root: write_mvtec(root, ("connector", "tubes")),
    "btad": write_btad,
    "kolektor_sdd2": write_kolektor,
    "real_iad": write_real_iad,
    "folder": write_plain,
}
"""By the layout's name."""


def write_all(root: Path) -> Iterator[tuple[str, Path]]:
    """Every layout in a folder of its own."""
    for name, write in WRITERS.items():
        write(root / name)
        yield name, root / name


def _write_csv(path: Path, header: tuple[str, ...], rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
