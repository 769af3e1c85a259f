"""Published counts: what they add up to, and when a copy is held against them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvqray.config.data_sections import DataConfig
from hvqray.data.dataset import GOOD, Dataset, Sample
from hvqray.data.layouts import LAYOUTS
from hvqray.data.prepare import open_dataset
from hvqray.data.published import PUBLISHED, Counts, differences

ROOT = Path("root")


def dataset(counts: dict[str, Counts], layout: str = "mvtec_ad") -> Dataset:
    samples = []
    for name, numbers in counts.items():
        parts = (("train", GOOD), ("test", GOOD), ("test", "cut"))
        for (part, defect), number in zip(parts, numbers, strict=True):
            samples += [Sample(ROOT / str(i), name, part, defect) for i in range(number)]
    return Dataset(ROOT, tuple(counts), tuple(samples), layout=layout)


def whole(name: str) -> dict[str, Counts]:
    return {key: counts for key, counts in PUBLISHED[name].classes.items() if counts is not None}


@pytest.mark.parametrize(
    ("name", "num_classes", "total"),
    [
        ("mvtec_ad", 15, (3629, 467, 1258)),
        ("visa", 12, (8659, 962, 1200)),
        ("mpdd", 6, (888, 176, 282)),
        ("btad", 3, (1799, 451, 290)),
        ("kolektor_sdd2", 1, (2085, 894, 110)),
        ("real_iad", 30, (36465, 63256, 51329)),
    ],
)
def test_totals_are_those_of_the_papers(name: str, num_classes: int, total: tuple[int, int, int]) -> None:
    assert len(PUBLISHED[name].classes) == num_classes
    assert PUBLISHED[name].total == total
    assert name in LAYOUTS


TRAIN_AND_TEST_IMAGES = {
    "mvtec_ad": (
        "bottle 209 83, cable 224 150, capsule 219 132, carpet 280 117, grid 264 78, hazelnut 391 110, leather 245 124,"
        " metal_nut 220 115, pill 267 167, screw 320 160, tile 230 117, toothbrush 60 42, transistor 213 100,"
        " wood 247 79, zipper 240 151"
    ),
    "visa": (
        "candle 900 200, capsules 542 160, cashew 450 150, chewinggum 453 150, fryum 450 150, macaroni1 900 200,"
        " macaroni2 900 200, pcb1 904 200, pcb2 901 200, pcb3 905 201, pcb4 904 201, pipe_fryum 450 150"
    ),
    "mpdd": (
        "bracket_black 289 79, bracket_brown 185 77, bracket_white 110 60, connector 128 44, metal_plate 54 97,"
        " tubes 122 101"
    ),
    "btad": "01 400 70, 02 399 230, 03 1000 441",
}
"""Written down a second time, with good and defective test images as one number."""


@pytest.mark.parametrize("name", TRAIN_AND_TEST_IMAGES)
def test_each_class_has_its_own_counts(name: str) -> None:
    rows = [row.split() for row in TRAIN_AND_TEST_IMAGES[name].split(",")]
    expected = {class_name: (int(train), int(test)) for class_name, train, test in rows}
    found = {key: (counts.train_good, sum(counts[1:])) for key, counts in whole(name).items()}
    assert found == expected


@pytest.mark.parametrize("name", ["visa", "mpdd", "btad", "kolektor_sdd2"])
def test_a_whole_copy_does_not_differ(name: str) -> None:
    assert differences(dataset(whole(name), name), named=True, all_classes=True) == []


def test_one_image_less_is_told(tmp_path: Path) -> None:
    counts = whole("mpdd")
    counts["tubes"] = counts["tubes"]._replace(train_good=121)
    (line,) = differences(dataset(counts), named=False, all_classes=True)
    assert "class tubes has 121 train good, 32 test good, 69 test defect images; MPDD" in line
    assert "has 122 train good, 32 test good, 69 test defect images" in line


def test_missing_classes_are_told_unless_a_subset_was_asked_for() -> None:
    counts = whole("btad")
    del counts["02"]
    (line,) = differences(dataset(counts), named=False, all_classes=True)
    assert line.endswith("are missing: 02")
    assert differences(dataset(counts), named=False, all_classes=False) == []


def test_other_datasets_are_left_alone_unless_named() -> None:
    own = dataset({"bottle": Counts(3, 2, 1), "lid": Counts(3, 2, 1)})
    assert differences(own, named=False, all_classes=True) == []
    one = dataset({"bottle": Counts(3, 2, 1)})
    assert differences(one, named=False, all_classes=True) == []
    lines = differences(own, named=True, all_classes=False)
    assert "lid: not among the classes of MVTec AD" in lines[0]
    assert "class bottle has 3 train good" in lines[1]
    (line,) = differences(dataset({"lid": Counts(3, 2, 1)}), named=True, all_classes=True)
    assert "no class of MVTec AD" in line
    assert differences(dataset({"lid": Counts(3, 2, 1)}, "folder"), named=True, all_classes=True) == []


def test_real_iad_is_compared_as_a_whole() -> None:
    counts = dict.fromkeys(PUBLISHED["real_iad"].classes, Counts(1, 1, 1))
    (line,) = differences(dataset(counts, "real_iad"), named=True, all_classes=True)
    assert "30 train good, 30 test good, 30 test defect images in all" in line
    del counts["toy"]
    (line,) = differences(dataset(counts, "real_iad"), named=True, all_classes=True)
    assert "1 of the 30 classes" in line


def test_nothing_is_told_without_progress(mvtec_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As in a sweep's trials, which all open what the sweep has opened."""
    config = DataConfig(root=str(mvtec_root), layout="mpdd")
    open_dataset(config, cache_dir=mvtec_root.parent)
    assert caplog.messages == []
    open_dataset(config, cache_dir=mvtec_root.parent, progress=lambda *_: None)
    assert len(caplog.messages) == 1
    assert "no class of MPDD" in caplog.messages[0]
