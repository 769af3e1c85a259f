"""How `train`, `val` and `test` are made."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvqray.config.data_sections import ValidationConfig
from hvqray.data.dataset import Dataset, Sample
from hvqray.data.groups import group_names
from hvqray.data.splits import SYNTHETIC, Splits, make_splits
from hvqray.errors import InputError


def dataset(counts: dict[str, dict[str, int]]) -> Dataset:
    """`{"bolt": {"train": 5, "good": 4, "cut": 3}}`, sorted as a reader gives it."""
    samples = []
    for name, parts in sorted(counts.items()):
        kinds = sorted(kind for kind in parts if kind != "train")
        for part, defect, count in [
            ("train", "good", parts["train"]),
            *(("test", kind, parts[kind]) for kind in kinds),
        ]:
            samples += [
                Sample(Path(name, part, defect, f"{i}.png"), name, part, defect) for i in range(count)
            ]
    return Dataset(Path("root"), tuple(sorted(counts)), tuple(samples))


def config(source: str, fraction: float = 0.5, seed: int = 0) -> ValidationConfig:
    return ValidationConfig.model_validate({"from": source, "fraction": fraction, "seed": seed})


def with_validation(parts: dict[str, dict[str, int]]) -> Dataset:
    """A class of part -> kind -> number of images."""
    samples = [
        Sample(Path(part, kind, f"{i}.png"), "bolt", part, kind)
        for part, kinds in parts.items()
        for kind, count in kinds.items()
        for i in range(count)
    ]
    return Dataset(Path("root"), ("bolt",), tuple(samples))


def kinds(splits: Splits, name: str) -> Counter[tuple[str, str]]:
    """How many images of each part and kind a split has."""
    return Counter((splits.samples[row].part, splits.samples[row].defect) for row in splits.rows[name])  # type: ignore[index]


def paths(splits: Splits, name: str) -> list[str]:
    return [str(splits.samples[row].path) for row in splits.rows[name]]  # type: ignore[index]


SMALL = {"bolt": {"train": 6, "good": 8, "cut": 4, "dent": 6}, "cloth": {"train": 5, "good": 5, "hole": 7}}


def test_from_test_halves_every_stratum() -> None:
    splits = make_splits(dataset(SMALL), config("test"))
    strata = {
        name: Counter((splits.samples[r].class_name, splits.samples[r].defect) for r in splits.rows[name])  # type: ignore[index]
        for name in ("val", "test")
    }
    assert strata["val"]["bolt", "good"] == strata["test"]["bolt", "good"] == 4
    assert strata["val"]["bolt", "cut"] == strata["test"]["bolt", "cut"] == 2
    assert strata["val"]["bolt", "dent"] == strata["test"]["bolt", "dent"] == 3
    assert {strata["val"]["cloth", "good"], strata["test"]["cloth", "good"]} == {2, 3}
    assert not splits.selected_on_test


@given(
    good=st.integers(2, 30),
    defects=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 100),
)
def test_from_test_is_a_partition_with_both_labels_in_both(
    good: int, defects: list[int], fraction: float, seed: int
) -> None:
    counts = {"train": 3, "good": good} | {f"defect{i}": count for i, count in enumerate(defects)}
    data = dataset({"bolt": counts})
    splits = make_splits(data, config("test", fraction, seed))
    rows = [set(splits.rows[name].tolist()) for name in ("train", "val", "test")]  # type: ignore[index]
    assert sum(map(len, rows)) == len(set.union(*rows)) == len(data.samples)
    assert all(data.samples[row].part == "train" and not data.samples[row].is_anomalous for row in rows[0])
    for is_anomalous, total in ((False, good), (True, sum(defects))):
        in_val = sum(data.samples[row].is_anomalous == is_anomalous for row in rows[1])
        if total >= 2:
            assert 1 <= in_val <= total - 1
        assert abs(in_val - fraction * total) <= 1
    for i, count in enumerate(defects):
        in_val = sum(data.samples[row].defect == f"defect{i}" for row in rows[1])
        assert abs(in_val - fraction * count) <= 2
    assert all(a < b for values in splits.rows.values() for a, b in pairwise(values.tolist()))


def test_seed_decides_and_other_classes_do_not() -> None:
    both, again = make_splits(dataset(SMALL), config("test")), make_splits(dataset(SMALL), config("test"))
    other = make_splits(dataset(SMALL), config("test", seed=1))
    alone = make_splits(dataset({"bolt": SMALL["bolt"]}), config("test"))
    assert paths(both, "val") == paths(again, "val") != paths(other, "val")
    assert [path for path in paths(both, "val") if path.startswith("bolt")] == paths(alone, "val")


def test_from_none_selects_on_test() -> None:
    splits = make_splits(dataset(SMALL), config("none"))
    np.testing.assert_array_equal(splits.rows["val"], splits.rows["test"])
    assert len(splits.rows["test"]) == 30
    assert splits.selected_on_test


def test_from_synthetic_holds_out_normal_images() -> None:
    data = dataset(SMALL)
    splits = make_splits(data, config("synthetic"))
    val = [splits.samples[row] for row in splits.rows["val"]]
    assert all(data.samples[row].part == "train" for row in splits.rows["val"])
    assert not set(splits.rows["val"]) & set(splits.rows["train"])
    assert len(splits.rows["test"]) == 30
    for name, num_val in (("bolt", 3), ("cloth", 2)):
        of_class = [sample for sample in val if sample.class_name == name]
        defects = [sample for sample in of_class if sample.is_anomalous]
        assert len(of_class) == num_val
        assert len(defects) == (num_val + 1) // 2
        assert all(s.defect == SYNTHETIC and s.synthetic_seed is not None and s.has_mask for s in defects)
    assert not any(splits.samples[row].is_anomalous for row in splits.rows["train"])
    assert make_splits(data, config("synthetic")).samples == splits.samples


def test_faults() -> None:
    with pytest.raises(InputError, match=r"class 'bolt' has no training image"):
        make_splits(dataset({"bolt": {"train": 0, "good": 2}}), config("test"))
    with pytest.raises(
        InputError,
        match=r"data.validation.from: .*leaves at least 1; class 'bolt' has 2; use 'test' or 'none'",
    ):
        make_splits(dataset({"bolt": {"train": 2, "good": 2}}), config("synthetic"))


@pytest.mark.parametrize(("train", "held"), [(3, 2), (5, 2), (10, 2), (15, 3), (100, 20)])
def test_from_synthetic_takes_a_fifth_and_never_all(train: int, held: int) -> None:
    unset = ValidationConfig.model_validate({"from": "synthetic"})
    splits = make_splits(dataset({"bolt": {"train": train, "good": 1}}), unset)
    labels = [splits.samples[row].is_anomalous for row in splits.rows["val"]]
    assert (len(labels), len(splits.rows["train"])) == (held, train - held)
    assert set(labels) == {False, True}


def photographs(names: dict[str, list[str]]) -> Dataset:
    """One class; defect (or `train`) to the files' names."""
    samples = [
        Sample(
            Path("bolt", kind, f"{name}.png"),
            "bolt",
            "train" if kind == "train" else "test",
            "good" if kind == "train" else kind,
        )
        for kind, files in names.items()
        for name in files
    ]
    return Dataset(Path("root"), ("bolt",), tuple(samples))


def grouped(source: str, pattern: str, seed: int = 0) -> ValidationConfig:
    return ValidationConfig.model_validate({"from": source, "fraction": 0.5, "group": pattern, "seed": seed})


@pytest.mark.parametrize("seed", range(5))
def test_crops_of_a_photograph_go_to_one_side(seed: int) -> None:
    crops = [f"{photo:03d}_{crop}" for photo in range(12) for crop in range(3)]
    data = photographs({"train": ["t"], "good": crops[:14], "crack": crops[14:]})
    splits = make_splits(data, grouped("test", r"^(\d+)_", seed))
    photos = {
        name: {splits.samples[row].path.stem[:3] for row in splits.rows[name]}  # type: ignore[index]
        for name in ("val", "test")
    }
    assert photos["val"].isdisjoint(photos["test"])
    assert len(photos["val"] | photos["test"]) == 12
    for name in ("val", "test"):
        labels = {splits.samples[row].is_anomalous for row in splits.rows[name]}  # type: ignore[index]
        assert labels == {False, True}
        assert 5 <= len(photos[name]) <= 7
    alone = make_splits(data, config("test", seed=seed))
    mixed = [
        {alone.samples[row].path.stem[:3] for row in alone.rows[name]}  # type: ignore[index]
        for name in ("val", "test")
    ]
    assert mixed[0] & mixed[1], "without groups a photograph is on both sides"


@pytest.mark.parametrize("seed", range(5))
def test_photographs_with_good_and_defective_crops_are_halved_as_well(seed: int) -> None:
    photos = [f"{photo:03d}" for photo in range(10)]
    data = photographs(
        {
            "train": ["t"],
            "good": [f"{photo}_0" for photo in photos],
            "crack": [f"{photo}_1" for photo in photos],
        }
    )
    splits = make_splits(data, grouped("test", r"^(\d+)_", seed))
    assert len(splits.rows["val"]) == len(splits.rows["test"]) == 10
    for name in ("val", "test"):
        found = Counter(splits.samples[row].path.stem[:3] for row in splits.rows[name])  # type: ignore[index]
        assert set(found.values()) == {2}


def test_groups_of_training_images_are_held_out_together() -> None:
    data = photographs({"train": [f"{i // 2}_{i % 2}" for i in range(12)], "good": ["a"]})
    splits = make_splits(data, grouped("synthetic", r"^\d+(?=_)"))
    held = {splits.samples[row].path.stem[0] for row in splits.rows["val"]}
    kept = {splits.samples[row].path.stem[0] for row in splits.rows["train"]}
    assert len(held) == len(kept) == 3
    assert held.isdisjoint(kept)
    # A large group stays in train rather than taking val far beyond its share.
    uneven = photographs({"train": [*(f"0_{i}" for i in range(9)), "1_0", "2_0", "3_0"], "good": ["a"]})
    for seed in range(4):
        assert len(make_splits(uneven, grouped("synthetic", r"^(\d)_", seed)).rows["val"]) <= 6
    one = photographs({"train": ["1_a", "1_b", "1_c"], "good": ["a"]})
    with pytest.raises(InputError, match="has 3 in 1 groups"):
        make_splits(one, grouped("synthetic", r"^(\d)_"))


def test_a_group_that_no_file_belongs_to_is_a_fault() -> None:
    with pytest.raises(InputError, match=r"data.validation.group: .* matches no image's name, such as '0'"):
        make_splits(dataset(SMALL), grouped("test", "photo"))


@pytest.mark.parametrize(
    ("validation", "told"),
    [
        ({"group": "(a"}, "is no regular expression"),
        ({"group": "(a)(b)"}, "has 2 parentheses; keep one"),
    ],
)
def test_groups_that_cannot_be_meant(validation: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        ValidationConfig.model_validate(validation)


def test_groups_may_be_in_the_training_images_alone() -> None:
    data = photographs(
        {"train": [f"photo{i // 2}_{i % 2}" for i in range(12)], "good": ["a"], "crack": ["b"]}
    )
    splits = make_splits(data, grouped("synthetic", r"^photo(\d+)"))
    test = [splits.samples[row] for row in splits.rows["test"]]
    assert len(set(group_names(test, r"^photo(\d+)"))) == len(test) == 2


def test_a_group_is_called_by_its_parenthesis_or_by_all_that_matches() -> None:
    samples = photographs({"good": ["cam1-a-x", "cam1-b-y", "cam2-a-y"]}).samples
    assert group_names(samples, r"^cam(\d)-\w") == ["bolt/1", "bolt/1", "bolt/2"]
    assert group_names(samples, r"^cam\d-\w") == ["bolt/cam1-a", "bolt/cam1-b", "bolt/cam2-a"]


def test_images_of_two_classes_are_never_of_one_group() -> None:
    samples = [
        Sample(Path(name, f"{photo}_{crop}.png"), name, "test", "good")
        for name in ("bolt", "nut")
        for photo in (1, 2)
        for crop in (1, 2)
    ]
    names = group_names(samples, r"^(\d)_")
    assert Counter(names) == dict.fromkeys(names, 2)
    assert len(set(names)) == 4


TEST = {"train": {"good": 6}, "test": {"good": 4, "cut": 6}}
ALL_OF_TEST = {("test", "good"): 4, ("test", "cut"): 6}


@pytest.mark.parametrize("source", ["test", "synthetic"])
def test_a_validation_part_with_normal_and_defect_images_is_val(source: str) -> None:
    splits = make_splits(with_validation(TEST | {"validation": {"good": 3, "dent": 2}}), config(source))
    assert kinds(splits, "val") == {("validation", "good"): 3, ("validation", "dent"): 2}
    assert kinds(splits, "test") == ALL_OF_TEST
    assert kinds(splits, "train") == {("train", "good"): 6}


@pytest.mark.parametrize(
    ("own", "taken"), [({"good": 3}, {("test", "cut"): 3}), ({"cut": 3}, {("test", "good"): 2})]
)
def test_what_a_validation_part_lacks_is_taken_from_test(
    own: dict[str, int], taken: dict[tuple[str, str], int]
) -> None:
    splits = make_splits(with_validation(TEST | {"validation": own}), config("test"))
    of_own = {("validation", kind): count for kind, count in own.items()}
    assert kinds(splits, "val") == of_own | taken
    assert kinds(splits, "val") + kinds(splits, "test") == Counter(ALL_OF_TEST) + Counter(of_own)
    assert not {*splits.rows["val"]} & {*splits.rows["test"]}


def test_normal_images_of_a_validation_part_are_given_synthetic_defects() -> None:
    """Every other one, and `train` stays whole."""
    splits = make_splits(with_validation(TEST | {"validation": {"good": 5}}), config("synthetic"))
    assert kinds(splits, "val") == {("validation", "good"): 2, ("validation", SYNTHETIC): 3}
    assert kinds(splits, "train") == {("train", "good"): 6}
    assert kinds(splits, "test") == ALL_OF_TEST
    others = [
        make_splits(with_validation(TEST | {"validation": {"good": 5}}), config("synthetic", seed=seed))
        for seed in range(5)
    ]
    drawn = {tuple(s.path.name for s in one.samples if s.defect == SYNTHETIC) for one in others}
    assert len(drawn) > 1, "the seed decides which"


def test_synthetic_beside_defects_of_a_validation_part_holds_out_normal_images() -> None:
    splits = make_splits(
        with_validation(TEST | {"validation": {"dent": 2}}), config("synthetic", fraction=0.5)
    )
    assert kinds(splits, "val") == {("train", "good"): 1, ("train", SYNTHETIC): 2, ("validation", "dent"): 2}
    assert kinds(splits, "train") == {("train", "good"): 3}


def test_the_published_protocol_leaves_a_validation_part_out() -> None:
    splits = make_splits(with_validation(TEST | {"validation": {"good": 3, "cut": 2}}), config("none"))
    assert kinds(splits, "val") == kinds(splits, "test") == ALL_OF_TEST
