"""The reader of Real-IAD."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from layout_copies import write_real_iad

from hvqray.data.layouts import read_dataset
from hvqray.data.real_iad import read_real_iad
from hvqray.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_real_iad(tmp_path)
    return tmp_path


def class_file(root: Path) -> Path:
    return root / "realiad_jsons" / "realiad_jsons" / "toy.json"


def change(root: Path, **parts: Any) -> None:
    content = json.loads(class_file(root).read_text())
    class_file(root).write_text(json.dumps(content | parts))


def test_defects_and_masks(root: Path) -> None:
    samples = [s for s in read_real_iad(root, ["toy"]).samples if s.is_anomalous]
    assert [s.defect for s in samples] == ["HS", "QS"]
    assert [s.mask_path for s in samples] == [s.path.with_suffix(".png") for s in samples]


def test_the_normal_class_is_that_of_the_file(root: Path) -> None:
    change(root, meta={"prefix": "toy/", "normal_class": "HS"})
    test = [s for s in read_real_iad(root, ["toy"]).samples if s.part == "test"]
    assert [s.defect for s in test] == ["OK", "OK", "QS", "good"]


def test_other_places_of_the_json_files(root: Path) -> None:
    expected = read_real_iad(root).samples
    (root / "realiad_jsons" / "realiad_jsons").rename(root / "moved")
    (root / "realiad_jsons").rmdir()
    (root / "moved").rename(root / "realiad_jsons")
    assert read_real_iad(root).samples == expected
    assert read_dataset(root / "realiad_256").samples == expected


def test_one_of_several_resolutions_must_be_named(root: Path) -> None:
    (root / "realiad_1024" / "toy").mkdir(parents=True)
    with pytest.raises(InputError, match="holds realiad_1024, realiad_256; give the one that is meant"):
        read_real_iad(root)
    assert len(read_real_iad(root / "realiad_256").samples) == 14


def test_what_is_not_on_disk_is_told_of(root: Path) -> None:
    samples = read_real_iad(root, ["toy"]).samples
    samples[0].path.unlink()
    mask = next(sample.mask_path for sample in samples if sample.mask_path)
    mask.unlink()
    dataset = read_real_iad(root, ["toy"])
    assert len(dataset.samples) == 6
    assert [
        "1 image left out: not on disk" in dataset.remarks[0],
        "1 mask not on disk" in dataset.remarks[1],
    ] == [True] * 2


def test_defective_training_images_are_not_used(root: Path) -> None:
    content = json.loads(class_file(root).read_text())
    change(root, train=content["train"] + content["test"][2:], test=content["test"][:2])
    dataset = read_real_iad(root, ["toy"])
    assert not any(sample.is_anomalous for sample in dataset.samples)
    assert "2 defective training images not used" in dataset.remarks[0]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"meta": {}}, r"toy\.json: meta\.normal_class: is not of Real-IAD's form"),
        ({"train": [{"anomaly_class": "OK"}]}, r"toy\.json: train\.0\.image_path: is not of"),
        ({"train": [{"anomaly_class": "OK", "image_path": "../../a.jpg"}]}, "leads out of"),
    ],
)
def test_a_faulty_file_is_named(root: Path, parts: dict[str, Any], message: str) -> None:
    change(root, **parts)
    with pytest.raises(InputError, match=message):
        read_real_iad(root)


def test_no_json(root: Path) -> None:
    class_file(root).write_text("{")
    with pytest.raises(InputError, match=r"toy\.json: cannot be read"):
        read_real_iad(root)
