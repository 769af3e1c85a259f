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


def remarks(root: Path) -> list[str]:
    found = check_dataset(read_dataset(root, "mvtec_ad"))
    assert found.faults == []
    return [remark.replace(f"{root}/", "") for remark in found.remarks]


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


@pytest.mark.parametrize(
    ("first", "copy", "told"),
    [
        (
            "test/good/00",
            "test/good/99",
            ", and one may come into val, the other into test; remove one of them",
        ),
        (
            "test/cut/00",
            "test/good/99",
            ", and one is called cut, the other good; remove the one that is wrong",
        ),
        ("train/good/00", "train/good/99", None),
    ],
)
def test_same_picture_twice_in_a_part(mvtec_root: Path, first: str, copy: str, told: str | None) -> None:
    shutil.copy(mvtec_root / f"bolt/{first}.png", mvtec_root / f"bolt/{copy}.png")
    same = f"bolt/{copy}.png: the same picture as bolt/{first}.png"
    assert faults(mvtec_root) == ([] if told is None else [same + told])


@pytest.mark.parametrize("part", ["train", "test"])
def test_same_picture_in_two_classes(mvtec_root: Path, part: str) -> None:
    shutil.copy(mvtec_root / f"bolt/{part}/good/00.png", mvtec_root / f"cloth/{part}/good/99.png")
    assert only_fault(mvtec_root) == (
        f"cloth/{part}/good/99.png: the same picture as bolt/{part}/good/00.png of another class; remove one of them"
    )


def test_a_mask_drawn_in_the_alpha_channel(mvtec_root: Path) -> None:
    """Of white, all of it would be anomalous; of black, none."""
    pixels = np.full((32, 40, 4), 255, np.uint8)
    pixels[:20, :, 3] = 0
    path = mvtec_root / "bolt/ground_truth/cut/01_mask.png"
    for colour in (255, 0):
        pixels[..., :3] = colour
        Image.fromarray(pixels).save(path)
        assert only_fault(mvtec_root).startswith(
            "bolt/ground_truth/cut/01_mask.png: the mask has one colour, and differs in its alpha channel alone"
        )


def test_odd_masks_are_no_fault(mvtec_root: Path) -> None:
    masks = mvtec_root / "bolt/ground_truth/cut"
    Image.new("L", (40, 32), 255).save(masks / "00_mask.png")
    two_levels = np.zeros((32, 40), np.uint8)
    two_levels[:5, :5] = 255
    two_levels[20:24, 20:24] = 100
    Image.fromarray(two_levels).save(masks / "01_mask.png")
    soft = Image.new("L", (40, 32))
    soft.paste(255, (10, 10, 20, 20))
    soft.resize((80, 64), Image.Resampling.BICUBIC).resize((40, 32)).save(masks / "02_mask.png")
    cut = "bolt/test/cut"
    assert remarks(mvtec_root) == [
        f"bolt: 1 mask covers the whole image (first: {cut}/00.png); see that only the defect is marked",
        "bolt: 1 mask has an even area below half of full scale, which counts as normal"
        f" (first: {cut}/01.png); where it is a defect draw it at full scale",
    ]


def test_odd_images_are_no_fault(mvtec_root: Path) -> None:
    pages = [Image.new("L", (40, 32), value) for value in (10, 20)]
    for name in ("98", "99"):
        pages[0].putpixel((0, 0), int(name))
        pages[0].save(mvtec_root / f"bolt/train/good/{name}.tif", save_all=True, append_images=pages[1:])
    Image.new("L", (40, 7), 3).save(mvtec_root / "cloth/train/good/99.png")
    (mvtec_root / "cloth/test/tear").mkdir()
    assert remarks(mvtec_root) == [
        "bolt: 2 images have several pages, of which the first alone is read (first: bolt/train/good/98.tif);"
        " save each page as a file of its own",
        "cloth: 1 image is narrower than 8 pixels (first: cloth/train/good/99.png);"
        " see that it is the picture that was meant",
        "cloth/test/tear: no image of this defect type; add some or remove the folder",
    ]


def test_what_is_not_read(mvtec_root: Path) -> None:
    for folder in ("bolt/train/cut", "bolt/unused/good"):
        (mvtec_root / folder).mkdir(parents=True)
        shutil.copy(mvtec_root / "bolt/test/cut/00.png", mvtec_root / folder)
    shutil.copy(mvtec_root / "bolt/test/cut/00.png", mvtec_root / "cloth/test/loose.png")
    found = faults(mvtec_root)
    assert [fault.split(":")[0] for fault in found] == [
        "bolt/train/cut",
        "bolt/unused/good",
        "cloth/test",
    ]


def test_every_fault_is_named(mvtec_root: Path) -> None:
    (mvtec_root / "bolt/test/cut/01.png").write_bytes(b"no image")
    (mvtec_root / "cloth/ground_truth/dent/02_mask.png").unlink()
    shutil.rmtree(mvtec_root / "cloth/train")
    assert len(faults(mvtec_root)) == 3
