"""A resumed sweep on other data than it was begun with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from hvqray.data.dataset import PreparedData, Sample, Split
from hvqray.errors import InputError
from hvqray.models.context import ModelContext
from hvqray.results.store import SweepStore
from hvqray.results.stored_trials import journal_path, read_info
from hvqray.tuning.same_data import check_same_data, check_same_images, data_record

SPLITS = {"train": ["a/0", "a/1", "b/0"], "val": ["a/2", "b/1"], "test": ["a/3", "b/2"]}


def prepared(
    splits: Mapping[str, Sequence[str]], *, root: Path = Path("/data"), fingerprint: str = "as it was"
) -> PreparedData:
    """Images `CLASS/NAME` in splits; no arrays, since nothing looks into them."""
    classes = tuple(sorted({name.partition("/")[0] for names in splits.values() for name in names}))
    none = np.zeros(0)

    def split(name: str, images: Sequence[str]) -> Split:
        samples = tuple(
            Sample(root / f"{image}.png", image.partition("/")[0], "train", "good") for image in images
        )
        rows = np.arange(len(samples))
        return Split(name, samples, rows, rows > 0, rows, none, none, none, rows >= 0)

    return PreparedData(
        ModelContext(classes, 8, (4, 4), 64),
        {name: split(name, images) for name, images in splits.items()},
        fingerprint,
        selected_on_test=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep that was begun with `SPLITS`."""
    data = data_record(prepared(SPLITS))
    SweepStore(tmp_path / "s", resume=False, selected_on_test=False, data=data).close()
    return tmp_path / "s"


@pytest.mark.parametrize(
    ("changed", "fingerprint", "told"),
    [
        (
            {name: [image.replace("b/", "c/") for image in images] for name, images in SPLITS.items()},
            "as it was",
            "class b no longer there; class c new",
        ),
        ({**SPLITS, "train": [*SPLITS["train"], "c/0"]}, "other", "class c new"),
        (
            {**SPLITS, "val": ["a/2", "a/4", "b/1"], "test": ["b/2"]},
            "other",
            "val: 2 images then, 3 now; test: 2 images then, 1 now",
        ),
        (
            {**SPLITS, "val": ["a/3", "b/1"], "test": ["a/2", "b/2"]},
            "as it was",
            "as many images, but others, or in other splits",
        ),
        (SPLITS, "other", "the same images by name, but what they hold,"),
    ],
)
def test_other_data_are_refused(
    folder: Path, changed: dict[str, list[str]], fingerprint: str, told: str
) -> None:
    with pytest.raises(InputError) as refused:
        check_same_data(prepared(changed, fingerprint=fingerprint), folder)
    line = str(refused.value)
    assert line.startswith(f"{folder}: the data differ from what the sweep was begun with ({told}")
    assert "restore them, or begin another sweep with --set name=NAME" in line


def test_the_same_data_elsewhere_are_the_same(folder: Path) -> None:
    check_same_data(prepared(SPLITS, root=Path("/another/place")), folder)


def test_the_order_of_the_images_is_of_no_account(folder: Path) -> None:
    check_same_data(prepared({name: images[::-1] for name, images in SPLITS.items()}), folder)


def test_what_an_older_version_began_goes_on_and_is_held_to_its_data_from_then_on(folder: Path) -> None:
    journal = journal_path(folder)
    opened = json.loads(journal.read_text())
    del opened["data"]
    journal.write_text(json.dumps(opened) + "\n")
    other = prepared({**SPLITS, "train": ["a/0", "b/0"]})
    check_same_data(other, folder)
    for data in (other, prepared(SPLITS)):  # the second start is refused before it comes to its store
        SweepStore(folder, resume=True, selected_on_test=False, data=data_record(data)).close()
    assert read_info(folder).data == data_record(other)
    with pytest.raises(InputError, match="train: 2 images then, 3 now"):
        check_same_data(prepared(SPLITS), folder)


def begin(folder: Path, splits: Mapping[str, Sequence[str]], fingerprint: str) -> Path:
    data = data_record(prepared(splits, root=Path("/another/place"), fingerprint=fingerprint))
    SweepStore(folder, resume=False, selected_on_test=False, data=data).close()
    return folder


def test_sweeps_on_the_same_images_may_have_other_features(folder: Path, tmp_path: Path) -> None:
    check_same_images(folder, begin(tmp_path / "other", SPLITS, "of another backbone"))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {**SPLITS, "val": ["a/3", "b/1"], "test": ["a/2", "b/2"]},
            "as many, but others, or in other splits",
        ),
        (
            {**SPLITS, "train": ["a/0"]},
            "train 1, val 2, test 2 of a, b, there train 3, val 2, test 2 of a, b",
        ),
    ],
)
def test_sweeps_on_other_images_are_refused(
    folder: Path, tmp_path: Path, changed: dict[str, list[str]], told: str
) -> None:
    other = begin(tmp_path / "other", changed, "as it was")
    with pytest.raises(InputError) as refused:
        check_same_images(folder, other)
    assert str(refused.value).startswith(f"{other}: is on other images than {folder} ({told}); give a sweep")


def test_a_sweep_that_does_not_say_what_it_is_on_is_refused(folder: Path, tmp_path: Path) -> None:
    SweepStore(tmp_path / "silent", resume=False, selected_on_test=False).close()
    for one, other in ((folder, tmp_path / "silent"), (tmp_path / "silent", folder)):
        with pytest.raises(InputError, match="silent: does not say which images it is on"):
            check_same_images(one, other)
