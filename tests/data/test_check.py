"""Every kind of fault is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvqray.data.check import check_dataset
from hvqray.data.layouts import read_dataset


def faults(root: Path) -> list[str]:
    found = check_dataset(read_dataset(root, "mvtec_ad")).faults
    assert not any("\n" in fault for fault in found)
    return [fault.replace(f"{root}/", "").replace(str(root), "ROOT") for fault in found]


def only_fault(root: Path) -> str:
    (fault,) = faults(root)
    return fault


def test_no_fault(mvtec_root: Path) -> None:
    assert faults(mvtec_root) == []


def test_unreadable_image(mvtec_root: Path) -> None:
    (mvtec_root / "bolt/test/cut/01.png").write_bytes(b"no image")
    assert only_fault(mvtec_root).startswith("bolt/test/cut/01.png: not a readable image")


def test_unreadable_mask(mvtec_root: Path) -> None:
    (mvtec_root / "bolt/ground_truth/cut/01_mask.png").write_bytes(b"no image")
    assert only_fault(mvtec_root).startswith("bolt/ground_truth/cut/01_mask.png: not a readable image")


def test_mask_of_another_size(mvtec_root: Path) -> None:
    Image.fromarray(np.full((32, 41), 255, np.uint8)).save(mvtec_root / "bolt/ground_truth/cut/01_mask.png")
    fault = only_fault(mvtec_root)
    assert fault.startswith(
        "bolt/ground_truth/cut/01_mask.png: the mask is 41x32 pixels, its image 01.png is 40x32"
    )


def test_defect_without_mask(mvtec_root: Path) -> None:
    (mvtec_root / "bolt/ground_truth/cut/01_mask.png").unlink()
    assert only_fault(mvtec_root).startswith("bolt/test/cut/01.png: a defect image without a mask")


def test_empty_mask(mvtec_root: Path) -> None:
    Image.new("L", (40, 32)).save(mvtec_root / "bolt/ground_truth/cut/01_mask.png")
    assert "01_mask.png: the mask of a defect image is empty" in only_fault(mvtec_root)


def test_mask_of_zeros_and_ones(mvtec_root: Path) -> None:
    Image.new("L", (40, 32), 1).save(mvtec_root / "bolt/ground_truth/cut/01_mask.png")
    assert "its largest value is 1 of 255" in only_fault(mvtec_root)


def test_mask_without_image(mvtec_root: Path) -> None:
    (mvtec_root / "bolt/test/cut/01.png").unlink()
    assert only_fault(mvtec_root).startswith("bolt/ground_truth/cut/01_mask.png: a mask without an image")


def test_class_without_training_images(mvtec_root: Path) -> None:
    shutil.rmtree(mvtec_root / "bolt/train")
    assert only_fault(mvtec_root).startswith("ROOT: class 'bolt' is without a training image")


def test_class_without_normal_test_images(mvtec_root: Path) -> None:
    shutil.rmtree(mvtec_root / "cloth/test/good")
    assert only_fault(mvtec_root).startswith("ROOT: class 'cloth' is without a normal test image")


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_same_picture_in_train_and_test(mvtec_root: Path, suffix: str) -> None:
    """By pixels, so another file format does not hide it."""
    with Image.open(mvtec_root / "bolt/train/good/02.png") as image:
        image.save(mvtec_root / f"cloth/test/good/77{suffix}")
    expected = (
        f"cloth/test/good/77{suffix}: the same picture as bolt/train/good/02.png in train; remove one of them"
    )
    assert only_fault(mvtec_root) == expected


def test_what_is_not_read(mvtec_root: Path) -> None:
    for folder in ("bolt/train/cut", "bolt/validation/good"):
        (mvtec_root / folder).mkdir(parents=True)
        shutil.copy(mvtec_root / "bolt/test/cut/00.png", mvtec_root / folder)
    shutil.copy(mvtec_root / "bolt/test/cut/00.png", mvtec_root / "cloth/test/loose.png")
    found = faults(mvtec_root)
    assert [fault.split(":")[0] for fault in found] == [
        "bolt/train/cut",
        "bolt/validation/good",
        "cloth/test",
    ]


def test_every_fault_is_named(mvtec_root: Path) -> None:
    (mvtec_root / "bolt/test/cut/01.png").write_bytes(b"no image")
    (mvtec_root / "cloth/ground_truth/dent/02_mask.png").unlink()
    shutil.rmtree(mvtec_root / "cloth/train")
    assert len(faults(mvtec_root)) == 3
