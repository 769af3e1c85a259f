"""The reader of VisA's own layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layout_copies import write_visa

from hvqray.config.data_sections import ValidationConfig
from hvqray.data.images import load_sample
from hvqray.data.splits import make_splits
from hvqray.data.visa import SPLIT_FILE, read_visa
from hvqray.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_visa(tmp_path)
    return tmp_path


def append(root: Path, line: str) -> None:
    with (root / SPLIT_FILE).open("a") as file:
        file.write(line + "\n")


def test_defect_types_are_those_of_the_annotations(root: Path) -> None:
    defects = [(s.class_name, s.defect) for s in read_visa(root).samples if s.is_anomalous]
    assert defects == [("candle", "melt"), ("candle", "melt+wax"), ("pcb1", "anomaly"), ("pcb1", "anomaly")]


def test_every_mask_value_but_zero_is_anomalous(root: Path) -> None:
    for sample in read_visa(root).samples:
        mask = load_sample(sample, 32).mask
        assert np.unique(mask).tolist() == ([0, 1] if sample.is_anomalous else [0])


def test_the_split_is_that_of_the_file(root: Path) -> None:
    split = root / SPLIT_FILE
    split.write_text(
        split.read_text().replace(
            "candle,train,normal,candle/Data/Images/Normal/0000.JPG",
            "candle,test,normal,candle/Data/Images/Normal/0000.JPG",
        )
    )
    test = [
        s.path.name for s in read_visa(root, ["candle"]).samples if s.part == "test" and not s.is_anomalous
    ]
    assert test == ["0000.JPG", "0003.JPG", "0004.JPG"]


def test_a_tiny_copy_with_the_whole_split_file_is_told_of(root: Path) -> None:
    for number in range(90):
        append(root, f"candle,train,normal,candle/Data/Images/Normal/1{number:03d}.JPG,")
    append(root, "cashew,train,normal,cashew/Data/Images/Normal/000.JPG,")
    (root / "pcb1/Data/Masks/Anomaly/001.png").unlink()
    dataset = read_visa(root)
    assert dataset.class_names == ("candle", "pcb1")
    assert len(dataset.samples) == 14
    assert [sample.has_mask for sample in dataset.samples].count(False) == 1
    assert ["90 images of" in dataset.remarks[0], "1 mask of" in dataset.remarks[1]] == [True, True]


def test_defective_training_images_are_not_used(root: Path) -> None:
    split = root / SPLIT_FILE
    split.write_text(split.read_text().replace("pcb1,test,anomaly", "pcb1,train,anomaly"))
    dataset = read_visa(root)
    assert not any(sample.is_anomalous for sample in dataset.samples if sample.class_name == "pcb1")
    assert "2 defective training images not used" in dataset.remarks[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("candle,train,normal,../secret.JPG,", "leads out of"),
        ("candle,train,normal,/secret.JPG,", "leads out of"),
        ("candle,validation,normal,a.JPG,", "split 'validation'"),
        ("candle,train,broken,a.JPG,", "label 'broken'"),
    ],
)
def test_a_faulty_line_is_named(root: Path, line: str, message: str) -> None:
    append(root, line)
    with pytest.raises(InputError, match=message) as caught:
        read_visa(root)
    assert "1cls.csv" in str(caught.value)


def test_another_csv_file_is_refused(root: Path) -> None:
    (root / SPLIT_FILE).write_text("image,label\na,b\n")
    with pytest.raises(InputError, match="has the columns image, label; wanted object, split"):
        read_visa(root)


@pytest.mark.parametrize("classes", [None, ["candle"]])
def test_without_the_folder_of_any_class(root: Path, classes: list[str] | None) -> None:
    split = root / SPLIT_FILE
    (root / "candle").rename(root / "cashew")
    (root / "pcb1").rename(root / "pcb2")
    for text in (split.read_text(), split.read_text().splitlines()[0] + "\n"):
        split.write_text(text)
        with pytest.raises(InputError, match=r"^data\.root: .* has the folder of no class; give the folder"):
            read_visa(root, classes)


def test_no_image_of_the_split_is_there(root: Path) -> None:
    for image in root.rglob("*.JPG"):
        image.unlink()
    for group in (None, "^(.)"):
        with pytest.raises(InputError, match=r"class 'candle' has no training image"):
            make_splits(read_visa(root), ValidationConfig.model_validate({"from": "none", "group": group}))
