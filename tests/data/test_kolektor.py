"""The reader of KolektorSDD2."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from layout_copies import write_kolektor

from hvqray.data.check import check_dataset
from hvqray.data.kolektor import read_kolektor
from hvqray.data.layouts import read_dataset
from hvqray.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_kolektor(tmp_path)
    return tmp_path


def names(root: Path, part: str, *, anomalous: bool) -> list[str]:
    samples = read_kolektor(root).samples
    return [s.path.name for s in samples if s.part == part and s.is_anomalous == anomalous]


def test_defective_where_the_mask_is_not_empty(root: Path) -> None:
    assert names(root, "test", anomalous=True) == ["20001.png", "20002.png"]
    assert names(root, "test", anomalous=False) == ["20000.png", "20003.png"]
    assert names(root, "train", anomalous=True) == []
    assert names(root, "train", anomalous=False) == ["10000.png", "10001.png", "10003.png"]


def test_defective_training_images_are_told_of(root: Path) -> None:
    (remark,) = read_kolektor(root).remarks
    assert remark.startswith(f"{root / 'train'}: 1 defective image not used")


def test_a_changed_mask_is_seen(root: Path) -> None:
    read_kolektor(root)
    shutil.copyfile(root / "train" / "10002_GT.png", root / "train" / "10000_GT.png")
    assert names(root, "train", anomalous=False) == ["10001.png", "10003.png"]


def test_an_image_without_its_mask_is_left_out_and_told_of(root: Path) -> None:
    (root / "test" / "20000_GT.png").unlink()
    assert names(root, "test", anomalous=False) == ["20003.png"]
    assert "1 image without NNNNN_GT.png left out" in read_kolektor(root).remarks[1]
    (fault,) = check_dataset(read_dataset(root)).faults
    assert fault.startswith(f"{root / 'test'}: 1 image not read (20000.png)")


def test_an_unreadable_mask_is_named(root: Path) -> None:
    (root / "test" / "20000_GT.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"20000_GT\.png: not a readable image"):
        read_kolektor(root)
