"""Histograms on disk."""

from __future__ import annotations

import zipfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from hvqray.errors import InputError
from hvqray.metrics.histogram_file import StoredHistograms, is_whole, writing_histograms
from hvqray.metrics.pixel_histograms import PixelHistograms


def histograms(seed: int) -> PixelHistograms:
    rng = np.random.default_rng(seed)
    normal, anomalous = rng.integers(0, 2**32, size=(2, 3, 5), dtype=np.uint32)
    return PixelHistograms(normal, anomalous, rng.random((3, 5), np.float32))


def read(path: Path, class_name: str) -> PixelHistograms | None:
    return StoredHistograms(path, class_name, {}).read()


def test_each_class_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "pixels.npz"
    written = {"cable gland": histograms(0), "Schraube ⌀3": histograms(1)}
    with writing_histograms(path) as writer:
        for class_name, each in written.items():
            writer.add(class_name, each)
            assert not path.exists(), "not whole yet"
    for class_name, each in written.items():
        found = read(path, class_name)
        assert found is not None
        for field in fields(PixelHistograms):
            one, other = getattr(found, field.name), getattr(each, field.name)
            np.testing.assert_array_equal(one, other, strict=True)
    assert read(path, "cable") is None
    with np.load(path, allow_pickle=False) as archive:
        assert sorted(archive)[:3] == [f"Schraube ⌀3/{name}" for name in ("anomalous", "normal", "overlap")]


@pytest.mark.parametrize("damage", ["cut", "bits", "other"])
def test_a_damaged_file_is_told_by_its_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "pixels.npz"
    with writing_histograms(path) as writer:
        writer.add("nut", histograms(0))
    assert is_whole(path)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "bits":
        content[len(content) // 4] ^= 255
    else:
        content = bytearray(b"no archive")
    path.write_bytes(content)
    assert not is_whole(path)
    with pytest.raises(InputError, match=r"pixels\.npz: is damaged \(.*remove it"):
        read(path, "nut")


def test_no_class_at_all(tmp_path: Path) -> None:
    with writing_histograms(tmp_path / "pixels.npz"):
        pass
    assert read(tmp_path / "pixels.npz", "nut") is None


def test_a_file_that_was_begun_does_not_replace_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "pixels.npz"
    with writing_histograms(path) as writer:
        writer.add("nut", histograms(0))
    before = path.read_bytes()
    half = replace(histograms(1), overlap_nB=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"), writing_histograms(path) as writer:
        writer.add("nut", half)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["pixels.npz"]


def test_pickled_arrays_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "pixels.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("normal", "anomalous", "overlap"):
            with archive.open(f"nut/{name}.npy", "w") as file:
                np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="allow_pickle"):
        read(path, "nut")
