"""The reader of a plain folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from layout_copies import write_mvtec, write_plain

from hvqray.data.check import check_dataset
from hvqray.data.folder import read_folder
from hvqray.data.layouts import read_dataset
from hvqray.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_plain(tmp_path / "lid")
    return tmp_path / "lid"


def names(root: Path, part: str) -> list[tuple[str, str]]:
    return [(s.defect, s.path.name) for s in read_folder(root).samples if s.part == part]


def test_the_class_is_called_after_the_folder(root: Path) -> None:
    assert read_folder(root).class_names == ("lid",)
    with pytest.raises(InputError, match="has no class 'lit'; did you mean 'lid'"):
        read_folder(root, ["lit"])


def test_defect_types_and_their_masks(root: Path) -> None:
    defects = {s.defect: s for s in read_folder(root).samples if s.is_anomalous}
    assert defects.keys() == {"abnormal", "dent"}
    assert defects["abnormal"].mask_path == root / "mask" / "00.png"
    assert defects["dent"].mask_path == root / "mask" / "dent" / "00_mask.png"


def test_each_fifth_is_for_the_test_where_there_is_no_normal_test(tmp_path: Path) -> None:
    write_plain(tmp_path / "lid", normal=11, normal_test=0)
    test = [name for defect, name in names(tmp_path / "lid", "test") if defect == "good"]
    assert test == ["04.png", "09.png"]
    assert len(names(tmp_path / "lid", "train")) == 9
    (remark,) = read_folder(tmp_path / "lid").remarks
    assert "2 images of normal, every fifth, for the test" in remark


def test_masks_may_be_absent(root: Path) -> None:
    (root / "mask" / "00.png").unlink()
    (fault,) = check_dataset(read_dataset(root)).faults
    assert fault.startswith(f"{root / 'abnormal' / '00.png'}: a defect image without a mask")


def test_one_class_folder_of_mvtec(tmp_path: Path) -> None:
    write_mvtec(tmp_path, ("nut", "bolt"))
    dataset = read_dataset(tmp_path / "nut")
    assert (dataset.layout, dataset.class_names) == ("folder", ("nut",))
    assert dataset.samples == read_dataset(tmp_path, classes=["nut"]).samples


def test_both_forms_and_good_defects_are_refused(root: Path) -> None:
    (root / "abnormal" / "good").mkdir()
    with pytest.raises(InputError, match="'good' is no defect type"):
        read_folder(root)
    (root / "train" / "good").mkdir(parents=True)
    with pytest.raises(InputError, match="has both a folder normal and train/good"):
        read_folder(root)
