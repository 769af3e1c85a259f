"""The reader of Real-IAD."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pytest
from layout_copies import Copy, write_real_iad

from hvqray.config.data_sections import ValidationConfig
from hvqray.data.groups import group_names
from hvqray.data.layouts import read_dataset
from hvqray.data.real_iad import read_real_iad
from hvqray.data.splits import Splits, make_splits
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


def write_views(root: Path, *, ok: int = 6, ng: int = 4, views: int = 5) -> None:
    """One class `toy`, its objects seen from all sides: 2 for training, `ok` normal ones, and `ng` of each of two defect types.

    The types count their objects from 1, each by itself, and on the last view of a defective object nothing is to be seen.
    """
    copy = Copy(root / "realiad_256")

    def of_object(folder: str, stem: str, kind: str) -> list[dict[str, str | None]]:
        entries = []
        for view in range(1, views + 1):
            path = f"{folder}/toy_{stem}_C{view}_20231021130235"
            is_ok = kind == "OK" or view == views
            copy.image(f"toy/{path}.jpg")
            if not is_ok:
                copy.mask(f"toy/{path}.png")
            entry = {"category": "toy", "anomaly_class": "OK" if is_ok else kind}
            entries.append(
                entry | {"image_path": f"{path}.jpg", "mask_path": None if is_ok else f"{path}.png"}
            )
        return entries

    train = [entry for n in (1, 2) for entry in of_object(f"OK/S{n:04d}", f"{n:04d}_OK", "OK")]
    test = [entry for n in range(3, 3 + ok) for entry in of_object(f"OK/S{n:04d}", f"{n:04d}_OK", "OK")]
    for kind in ("BX", "QS"):
        for n in range(1, ng + 1):
            test += of_object(f"NG/{kind}/S{n:04d}", f"_{n:04d}_NG_{kind}", kind)
    file = root / "realiad_jsons" / "toy.json"
    file.parent.mkdir(parents=True)
    meta = {"prefix": "toy/", "normal_class": "OK"}
    file.write_text(json.dumps({"meta": meta, "train": train, "test": test}))


def objects(splits: Splits, name: Literal["train", "val", "test"]) -> Counter[str]:
    return Counter(splits.samples[row].path.parent.as_posix() for row in splits.rows[name])


def test_the_views_of_an_object_go_to_one_side(tmp_path: Path) -> None:
    write_views(tmp_path)
    dataset = read_real_iad(tmp_path)
    for seed in range(3):
        splits = make_splits(dataset, ValidationConfig(seed=seed))
        val, test = objects(splits, "val"), objects(splits, "test")
        assert val.keys().isdisjoint(test)
        assert set((val + test).values()) == {5}
        assert len(val) == len(test) == 7
        for part in (val, test):
            kinds = Counter(re.sub(r".*/(OK|BX|QS)/.*", r"\1", folder) for folder in part)
            assert kinds == {"OK": 3, "BX": 2, "QS": 2}
    synthetic = make_splits(dataset, ValidationConfig.model_validate({"from": "synthetic"}))
    assert objects(synthetic, "val").keys().isdisjoint(objects(synthetic, "train"))


def test_images_of_an_object_are_resampled_together(tmp_path: Path) -> None:
    """`BX` and `QS` both have an object 1, and these are two."""
    write_views(tmp_path)
    splits = make_splits(read_real_iad(tmp_path), ValidationConfig())
    of_test = [splits.samples[row] for row in splits.rows["test"]]
    groups = group_names(of_test, None)
    assert len(set(groups)) == len({sample.path.parent for sample in of_test}) == 7
    assert set(Counter(groups).values()) == {5}


def test_a_group_that_is_given_takes_the_place_of_the_objects(tmp_path: Path) -> None:
    write_views(tmp_path, ok=8, ng=8)
    dataset = read_real_iad(tmp_path)
    cameras = make_splits(dataset, ValidationConfig(group=r"_C(\d)_"))
    for row in cameras.rows["val"]:
        camera = f"_C{cameras.samples[row].path.stem.split('_C')[1][0]}_"
        assert not any(camera in cameras.samples[other].path.stem for other in cameras.rows["test"])
    alone = make_splits(dataset, ValidationConfig(group=".+"))
    assert objects(alone, "val").keys() & objects(alone, "test").keys()
    # The same as the objects, and no misprint.
    named = make_splits(dataset, ValidationConfig(group=r"^(.+)_C\d_"))
    assert objects(named, "val") == objects(make_splits(dataset, ValidationConfig()), "val")


def test_a_folder_that_is_no_objects_is_no_group(root: Path) -> None:
    content = json.loads(class_file(root).read_text())
    images = root / "realiad_256" / "toy"
    (images / "all").mkdir()
    for entry in content["test"]:
        (images / entry["image_path"]).rename(images / "all" / Path(entry["image_path"]).name)
        entry["image_path"] = f"all/{Path(entry['image_path']).name}"
    change(root, test=content["test"])
    samples = read_real_iad(root, ["toy"]).samples
    assert [sample.group is None for sample in samples] == [sample.part == "test" for sample in samples]
