"""The reader of the MVTec AD layout."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console

from hvqray.data.check import check_dataset
from hvqray.data.describe import describe_dataset
from hvqray.data.layouts import read_dataset
from hvqray.data.mvtec import read_mvtec
from hvqray.errors import InputError


def test_samples_are_sorted_and_complete(mvtec_root: Path) -> None:
    dataset = read_mvtec(mvtec_root)
    keys = [(s.class_name, s.part, s.defect, s.path.name) for s in dataset.samples]
    assert dataset.class_names == ("bolt", "cloth")
    assert len(keys) == 30
    for name in dataset.class_names:
        assert [key[1:3] for key in keys if key[0] == name] == (
            [("train", "good")] * 5 + [("test", "cut")] * 3 + [("test", "dent")] * 3 + [("test", "good")] * 4
        )
    assert all(sample.mask_path is not None for sample in dataset.samples if sample.is_anomalous)
    assert all(sample.mask_path is None for sample in dataset.samples if not sample.is_anomalous)


@pytest.mark.parametrize("mask_name", ["00_mask.png", "00.png", "00.BMP", "00_mask.TIFF"])
def test_mask_names(mvtec_root: Path, mask_name: str) -> None:
    folder = mvtec_root / "bolt" / "ground_truth" / "cut"
    (folder / "00_mask.png").rename(folder / mask_name)
    sample = next(s for s in read_mvtec(mvtec_root).samples if s.defect == "cut")
    assert sample.mask_path == folder / mask_name


def test_of_two_masks_the_one_that_says_so_is_taken(mvtec_root: Path) -> None:
    folder = mvtec_root / "bolt" / "ground_truth" / "cut"
    (folder / "00.png").write_bytes((mvtec_root / "bolt" / "test" / "cut" / "00.png").read_bytes())
    sample = next(s for s in read_mvtec(mvtec_root).samples if s.defect == "cut")
    assert sample.mask_path == folder / "00_mask.png"


def test_the_word_mask_in_the_name_of_an_image_is_a_part_of_it(mvtec_root: Path) -> None:
    bolt = mvtec_root / "bolt"
    for number, stem in ((0, "face_mask_blue"), (1, "face_mask")):
        (bolt / "test" / "cut" / f"{number:02d}.png").rename(bolt / "test" / "cut" / f"{stem}.png")
        masks = bolt / "ground_truth" / "cut"
        (masks / f"{number:02d}_mask.png").rename(masks / f"{stem}_mask.png")
    of_bolt = [s for s in read_mvtec(mvtec_root, ["bolt"]).samples if s.defect == "cut"]
    assert {s.path.stem: s.mask_path and s.mask_path.stem for s in of_bolt} == {
        "02": "02_mask",
        "face_mask": "face_mask_mask",
        "face_mask_blue": "face_mask_blue_mask",
    }


def test_extension_in_any_case_and_other_files_left_out(mvtec_root: Path) -> None:
    good = mvtec_root / "bolt" / "train" / "good"
    (good / "00.png").rename(good / "00.JPeG")
    (good / "SOURCE.md").write_text("where it is from")
    (good / ".hidden.png").write_bytes(b"")
    (mvtec_root / "README.md").write_text("no class")
    (mvtec_root / "notes").mkdir()
    names = [
        s.path.name for s in read_mvtec(mvtec_root).samples if s.class_name == "bolt" and s.part == "train"
    ]
    assert names == ["00.JPeG", "01.png", "02.png", "03.png", "04.png"]


def test_classes_restrict(mvtec_root: Path) -> None:
    dataset = read_mvtec(mvtec_root, ["cloth", "cloth"])
    assert dataset.class_names == ("cloth",)
    assert {s.class_name for s in dataset.samples} == {"cloth"}


def test_unknown_class_names_the_nearest(mvtec_root: Path) -> None:
    with pytest.raises(InputError, match=r"no class 'clothe'; did you mean 'cloth'\?"):
        read_mvtec(mvtec_root, ["clothe"])


def test_no_dataset(tmp_path: Path, mvtec_root: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no class folder"):
        read_mvtec(tmp_path / "empty")
    with pytest.raises(InputError, match="did you mean its parent"):
        read_mvtec(mvtec_root / "bolt")
    with pytest.raises(InputError, match="names no class"):
        read_mvtec(mvtec_root, [])


def test_a_validation_part_is_read_with_its_masks(with_validation: Path) -> None:
    dataset = read_dataset(with_validation)
    own = [sample for sample in dataset.samples if sample.part == "validation"]
    bolt = with_validation / "bolt"
    assert [(s.defect, s.path.stem, s.mask_path) for s in own] == [
        ("cut", "00", bolt / "validation" / "ground_truth" / "cut" / "00_mask.png"),
        ("cut", "v1", bolt / "ground_truth" / "cut" / "v1_mask.png"),
        ("dent", "v0", bolt / "ground_truth" / "dent" / "v0_mask.png"),
        ("good", "00", None),
        ("good", "01", None),
    ]
    of_test = next(s for s in dataset.samples if (s.part, s.defect, s.path.stem) == ("test", "cut", "00"))
    assert of_test.mask_path == bolt / "ground_truth" / "cut" / "00_mask.png"
    assert len(dataset.samples) == 35
    (remark,) = dataset.remarks
    assert "5 images of validation, 3 of them with defects, come into val" in remark


def test_a_class_folder_alone_has_its_validation_part_too(with_validation: Path) -> None:
    dataset = read_dataset(with_validation / "bolt")
    assert sum(sample.part == "validation" for sample in dataset.samples) == 5
    assert len(dataset.remarks) == 1
    assert not check_dataset(dataset).faults


def test_check_and_describe_know_the_validation_part(with_validation: Path) -> None:
    own, bolt = with_validation / "bolt" / "validation", with_validation / "bolt"
    found = check_dataset(read_dataset(with_validation))
    assert (found.faults, found.remarks) == ([], [])
    table, _ = describe_dataset(read_dataset(with_validation))
    console = Console(width=200, record=True)
    console.print(table)
    row = next(line for line in console.export_text().splitlines() if "bolt" in line)
    assert [cell.split()[0] for cell in row.strip("│┃ ").split("│") if cell.split()][:6] == [
        "bolt",
        "5",
        "2",
        "3",
        "4",
        "6",
    ]
    (own / "good" / "02.png").write_bytes((bolt / "train" / "good" / "00.png").read_bytes())
    (bolt / "test" / "good" / "09.png").write_bytes((own / "good" / "01.png").read_bytes())
    (own / "scratch").mkdir()
    found = check_dataset(read_dataset(with_validation))
    assert [fault.partition(": the same picture as ")[2] for fault in found.faults] == [
        f"{bolt / 'train' / 'good' / '00.png'} in train; remove one of them",
        f"{own / 'good' / '01.png'} in validation; remove one of them",
    ]
    assert [line for line in found.remarks if "scratch" in line and "no image of this defect type" in line]


def test_a_mask_beside_its_validation_image_is_told_where_it_belongs(with_validation: Path) -> None:
    own = with_validation / "bolt" / "validation"
    (own / "ground_truth" / "cut" / "00_mask.png").rename(own / "cut" / "00_mask.png")
    with pytest.raises(
        InputError, match=re.escape(f"move it to {own / 'ground_truth' / 'cut' / '00_mask.png'}")
    ):
        read_mvtec(with_validation)
