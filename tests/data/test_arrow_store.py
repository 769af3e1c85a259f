"""Tensors in Arrow IPC files."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hvqray.data.arrow_store import Column, DamagedFileError, TensorWriter, is_in_use, open_tensors

COLUMNS = {"features": Column(np.float16, (3, 2, 2)), "mask": Column(np.uint8, (5,))}


def write(path: Path, num_rows: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = {
        "features": rng.standard_normal((num_rows, 3, 2, 2)).astype(np.float16),
        "mask": rng.integers(0, 2, (num_rows, 5), np.uint8),
    }
    writer = TensorWriter(path, COLUMNS)
    for start in range(0, num_rows, 3):
        writer.append({name: values[start : start + 3] for name, values in rows.items()})
    writer.close()
    return rows


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = write(tmp_path / "t.arrow")
    tensors = open_tensors(tmp_path / "t.arrow")
    assert tensors.keys() == rows.keys()
    for name, values in rows.items():
        assert tensors[name].dtype == values.dtype
        np.testing.assert_array_equal(tensors[name], values)
    assert [path.name for path in tmp_path.iterdir()] == ["t.arrow"]


def test_arrays_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    write(tmp_path / "t.arrow")
    before = pa.total_allocated_bytes()
    tensors = open_tensors(tmp_path / "t.arrow")
    assert pa.total_allocated_bytes() == before
    assert not any(array.flags.owndata or array.flags.writeable for array in tensors.values())


def test_others_can_read_the_file(tmp_path: Path) -> None:
    """Any Arrow reader sees the shapes."""
    rows = write(tmp_path / "t.arrow")
    with pa.ipc.open_file(str(tmp_path / "t.arrow")) as reader:
        column = reader.read_all().column("features").combine_chunks()
    assert column.type.shape == [3, 2, 2]
    np.testing.assert_array_equal(
        np.stack([np.array(row) for row in column.to_pylist()]), rows["features"].reshape(7, -1)
    )


def test_file_is_in_use_while_any_array_of_it_lives(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    write(path)
    assert not is_in_use(path)
    tensors = open_tensors(path)
    view = tensors["mask"][2:]
    del tensors
    gc.collect()
    assert is_in_use(path)
    del view
    gc.collect()
    assert not is_in_use(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_tensors(tmp_path / "none.arrow")
    assert not is_in_use(tmp_path / "none.arrow")


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "is empty": lambda content: b"",
    "cannot be read: File is too small": lambda content: content[:5],
    "cannot be read: Not an Arrow file": lambda content: content[: len(content) // 2],
    "cannot be read: Not an Arrow": lambda content: content[:-1],
    "cannot be read: Unexpected empty message": lambda content: bytes(len(content) - 700) + content[-700:],
    "cannot be read: Verification of flatbuffer": lambda content: content[:-50] + bytes(30) + content[-20:],
    "cannot be read: Not": lambda content: b"an error page of some proxy",
}


@pytest.mark.parametrize("told", DAMAGES)
def test_a_damaged_file_is_told_as_that(tmp_path: Path, told: str) -> None:
    path = tmp_path / "t.arrow"
    write(path)
    path.write_bytes(DAMAGES[told](path.read_bytes()))
    with pytest.raises(DamagedFileError, match=rf"^t\.arrow {told}"):
        open_tensors(path)


def test_rows_of_another_shape_are_refused(tmp_path: Path) -> None:
    writer = TensorWriter(tmp_path / "t.arrow", {"mask": Column(np.uint8, (5,))})
    with pytest.raises(AssertionError):
        writer.append({"mask": np.zeros((2, 4), np.uint8)})
    with pytest.raises(AssertionError):
        writer.append({"mask": np.zeros((2, 5), np.float32)})
    writer.append({"mask": np.zeros((2, 5), np.uint8)})
    writer.close()
