"""Every layout is recognised, read without a fault, and ends in the same arrays."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from layout_copies import WRITERS, write_kolektor, write_mvtec, write_plain, write_visa

from hvqray.config.data_sections import DataConfig
from hvqray.data import commands
from hvqray.data.check import check_dataset
from hvqray.data.images import load_sample
from hvqray.data.layouts import LAYOUTS, read_dataset
from hvqray.data.prepare import prepare_data
from hvqray.errors import InputError

PER_CLASS = Counter({("train", False): 3, ("test", False): 2, ("test", True): 2})
"""What most copies have in each class, by part and whether anomalous."""


def test_there_is_a_copy_of_every_layout() -> None:
    assert WRITERS.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("layout", WRITERS)
def test_recognised_and_without_fault(layout: str, tmp_path: Path) -> None:
    root = tmp_path / layout
    WRITERS[layout](root)
    dataset = read_dataset(root)
    assert dataset.layout == layout
    expected = PER_CLASS if layout != "folder" else PER_CLASS + Counter({("train", False): 2})
    for name in dataset.class_names:
        of_class = [sample for sample in dataset.samples if sample.class_name == name]
        assert Counter((sample.part, sample.is_anomalous) for sample in of_class) == expected
    assert all((sample.mask_path is not None) == sample.is_anomalous for sample in dataset.samples)
    assert check_dataset(dataset).faults == []
    order = [(sample.class_name, sample.part == "test") for sample in dataset.samples]
    assert order == sorted(order)
    assert read_dataset(root, layout) == dataset


@pytest.mark.parametrize("layout", WRITERS)
def test_a_quarter_of_each_mask_is_marked_whatever_its_values(layout: str, tmp_path: Path) -> None:
    WRITERS[layout](tmp_path / layout)
    for sample in read_dataset(tmp_path / layout).samples:
        mask = load_sample(sample, 32).mask
        assert mask.mean() == (0.25 if sample.is_anomalous else 0)


def test_two_layouts_in_one_folder(tmp_path: Path) -> None:
    write_mvtec(tmp_path, ("nut",))
    write_plain(tmp_path)
    with pytest.raises(InputError, match=r"could be read as mvtec_ad or folder; say which with data\.layout"):
        read_dataset(tmp_path)
    assert read_dataset(tmp_path, "mvtec_ad").class_names == ("nut",)


def test_no_layout_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no dataset of a known layout"):
        read_dataset(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        read_dataset(tmp_path / "missing")


def test_a_folder_too_high_up(tmp_path: Path) -> None:
    write_kolektor(tmp_path / "downloads" / "KolektorSDD2")
    with pytest.raises(InputError, match=r"did you mean .*/downloads/KolektorSDD2\?$"):
        read_dataset(tmp_path / "downloads")


@pytest.mark.parametrize("folder", ["bottle/train/Good", "bottle/test/OK", "bottle/Train", "Normal"])
def test_a_folder_that_differs_by_case_is_named(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    name = Path(folder).name.lower()
    with pytest.raises(InputError, match=rf"known layout; rename .*/{folder} to {name}, as the case counts$"):
        read_dataset(tmp_path)


def test_normal_images_that_would_be_a_defect_type_by_case_are_refused(mvtec_root: Path) -> None:
    (mvtec_root / "bolt/test/good").rename(mvtec_root / "bolt/test/Good")
    with pytest.raises(InputError, match=r"bolt/test/Good: is not read as 'good'; rename it to good$"):
        read_dataset(mvtec_root)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_another_layout_is_refused_in_one_line(layout: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        read_dataset(tmp_path / "empty", layout)
    assert "data.root: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_class_of_any_layout(tmp_path: Path) -> None:
    write_visa(tmp_path)
    assert read_dataset(tmp_path, classes=["pcb1"]).class_names == ("pcb1",)
    with pytest.raises(InputError, match=r"no class 'candel'; did you mean 'candle'\?"):
        read_dataset(tmp_path, classes=["candel"])


def test_layout_without_a_root(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.layout: 'visa' without data\.root"):
        prepare_data(DataConfig(layout="visa"), cache_dir=tmp_path)


@pytest.mark.parametrize("command", ["describe", "check"])
def test_commands_tell_what_differs(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_visa(tmp_path / "set")
    arguments = [str(tmp_path / "set"), "--cache-dir", str(tmp_path / "cache")]
    assert commands.main([command, *arguments]) == 0
    captured = capsys.readouterr()
    warnings = [line for line in captured.err.splitlines() if line.startswith("hvqray: warning:")]
    assert len(warnings) == 3
    assert "10 of the 12 classes of VisA" in warnings[0]
    assert "class candle has 3 train good, 2 test good, 2 test defect images" in warnings[1]
    assert "has 900 train good, 100 test good, 100 test defect images" in warnings[1]
    assert commands.main([command, *arguments, "--classes", "pcb1", "--layout", "visa"]) == 0
    assert "classes of VisA" not in capsys.readouterr().err
    assert commands.main([command, *arguments, "--layout", "btad"]) == 2
