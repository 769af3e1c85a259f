"""Files in the classes' folders that are not read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from layout_copies import WRITERS, write_plain
from PIL import Image

from hvqray.data.check import check_dataset
from hvqray.data.layouts import read_dataset
from hvqray.data.unread import formats_remark
from hvqray.errors import InputError


def faults(root: Path) -> list[str]:
    return [fault.replace(f"{root}/", "") for fault in check_dataset(read_dataset(root)).faults]


def test_formats_that_are_not_read(mvtec_root: Path) -> None:
    good = mvtec_root / "bolt/train/good"
    for name in ("a.GIF", "b.heic", ".hidden.gif", "notes.txt"):
        (good / name).write_bytes(b"")
    (mvtec_root / "cloth/ground_truth/cut/00.pgm").write_bytes(b"")
    assert faults(mvtec_root) == [
        "bolt/train/good: 2 images in formats that are not read (a.GIF, ...); save them as PNG",
        "cloth/ground_truth/cut: 1 image in a format that is not read (00.pgm); save it as PNG",
    ]
    (line,) = formats_remark(read_dataset(mvtec_root))
    assert line == (
        f"{mvtec_root}: 3 images in formats that are not read ({good}/a.GIF, ...); save them as PNG"
    )
    shutil.rmtree(good)
    shutil.rmtree(mvtec_root / "cloth/ground_truth")
    assert formats_remark(read_dataset(mvtec_root)) == []


@pytest.mark.parametrize("suffix", ["_mask", "_GT"])
def test_masks_beside_images_are_refused(mvtec_root: Path, suffix: str) -> None:
    """They would be taken for images: of defects under test, of normal parts under train."""
    for number in ("00", "01"):
        shutil.copy(
            mvtec_root / f"bolt/ground_truth/cut/{number}_mask.png",
            mvtec_root / f"bolt/test/cut/{number}{suffix}.png",
        )
    with pytest.raises(InputError) as caught:
        read_dataset(mvtec_root)
    assert str(caught.value) == (
        f"{mvtec_root}/bolt/test/cut/00{suffix}.png: a mask beside its image 00.png, where it would be taken for an image, like"
        f" 1 other here; move it to {mvtec_root}/bolt/ground_truth/cut/00_mask.png"
    )
    for number in ("00", "01"):
        (mvtec_root / f"bolt/test/cut/{number}{suffix}.png").unlink()
    save_as = mvtec_root / f"bolt/train/good/03{suffix}.png"
    Image.new("L", (40, 32)).save(save_as)
    with pytest.raises(InputError, match=r"03_\w+\.png: a mask beside its image 03\.png, .*; remove it$"):
        read_dataset(mvtec_root)
    save_as.rename(save_as.with_stem(f"own{suffix}"))
    assert read_dataset(mvtec_root), "an image of that name without another beside it"


@pytest.mark.parametrize("image", ["abnormal/00", "abnormal/dent/00"])
def test_masks_beside_images_of_a_plain_folder(tmp_path: Path, image: str) -> None:
    write_plain(tmp_path / "lid")
    Image.new("L", (40, 32)).save(tmp_path / "lid" / f"{image}_mask.png")
    moved = f"{tmp_path}/lid/{image.replace('abnormal', 'mask')}_mask.png"
    with pytest.raises(InputError, match=rf"{image}_mask\.png: a mask beside .*; move it to {moved}$"):
        read_dataset(tmp_path / "lid")


def test_a_misspelt_folder_of_masks(mvtec_root: Path) -> None:
    (mvtec_root / "bolt/ground_truth").rename(mvtec_root / "bolt/Ground_Truth")
    shutil.rmtree(mvtec_root / "bolt/Ground_Truth/dent")
    shutil.rmtree(mvtec_root / "bolt/test/dent")
    *without, last = faults(mvtec_root)
    assert [line.split(":")[0] for line in without] == [f"bolt/test/cut/0{n}.png" for n in range(3)]
    assert last.startswith(
        "bolt/Ground_Truth/cut: 3 masks not read (00_mask.png, ...); the folder must be called ground_truth"
    )


def test_a_misspelt_folder_of_masks_in_a_plain_folder(tmp_path: Path) -> None:
    root = tmp_path / "lid"
    write_plain(root)
    (root / "mask").rename(root / "Masks")
    found = [line.partition(" (the layout")[0] for line in faults(root) if line.startswith("Masks")]
    assert found == [
        "Masks: 1 mask not read (00.png); the folder must be called mask",
        "Masks/dent: 1 mask not read (00_mask.png); the folder must be called mask",
    ]


def test_a_second_mask_of_an_image(mvtec_root: Path) -> None:
    masks = mvtec_root / "bolt/ground_truth/cut"
    for name in ("00.png", "00_mask.bmp"):
        shutil.copy(masks / "01_mask.png", masks / name)
    image = "bolt/test/cut/00.png"
    # Of two masks of one name and two formats, the reader takes one.
    (read,) = (
        str(sample.mask_path.relative_to(mvtec_root))
        for sample in read_dataset(mvtec_root).samples
        if sample.path == mvtec_root / image and sample.mask_path is not None
    )
    found = faults(mvtec_root)
    assert len(found) == 2
    for line in found:
        assert line.endswith(f": a second mask of {image}, of which {read} is read; remove one of them")


def test_a_mask_whose_name_is_not_read(mvtec_root: Path) -> None:
    masks = mvtec_root / "bolt/ground_truth/cut"
    (masks / "00_mask.png").rename(masks / "00_GT.png")
    assert faults(mvtec_root)[1:] == [
        "bolt/ground_truth/cut/00_GT.png: a mask that is not read; rename it to 00_mask.png"
    ]


def test_in_a_class_called_masks_photographs_are_no_masks(mvtec_root: Path) -> None:
    (mvtec_root / "bolt").rename(mvtec_root / "masks")
    (mvtec_root / "masks/validation").mkdir()
    shutil.copy(mvtec_root / "masks/train/good/00.png", mvtec_root / "masks/validation/07.png")
    (fault,) = faults(mvtec_root)
    assert fault.startswith("masks/validation: 1 image not read (07.png)")


def test_no_layout_has_unread_files(tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        write(tmp_path / name)
        assert faults(tmp_path / name) == []
