"""Tensors in one Arrow IPC file: written in bounded memory, read as memory-mapped numpy arrays without a copy.

The file holds one record batch, so that each column is one contiguous array; a column's type is Arrow's
fixed-shape tensor, so the file tells its shapes.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa


class DamagedFileError(Exception):
    """A file is empty, breaks off, or is no file of tensors."""


@dataclass(frozen=True)
class Column:
    """Type and shape of each row of a column."""

    dtype: type[np.generic]
    shape: tuple[int, ...]


class TensorWriter:
    """Collects rows in one plain file per column, then writes them as one record batch.

    A record batch must know its length first, and columns lie one after the other in it; so the rows go through
    the disk twice, and never all through memory.
    """

    def __init__(self, path: Path, columns: dict[str, Column]) -> None:
        self._path = path
        self._columns = columns
        self._raw_paths = {name: path.with_name(f"{path.name}.{name}") for name in columns}
        self._num_rows = 0

    def append(self, rows: dict[str, np.ndarray]) -> None:
        """Adds (n, *shape) rows of every column."""
        lengths = {len(values) for values in rows.values()}
        assert rows.keys() == self._columns.keys()
        assert len(lengths) == 1
        for name, values in rows.items():
            column = self._columns[name]
            assert values.dtype == np.dtype(column.dtype)
            assert values.shape[1:] == column.shape
            with self._raw_paths[name].open("ab") as file:
                file.write(np.ascontiguousarray(values).data)
        self._num_rows += lengths.pop()

    def close(self) -> None:
        """Writes the Arrow file and removes the plain ones."""
        arrays = {name: self._tensor_array(name) for name in self._columns}
        batch = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
        with self._path.open("wb") as file:
            with pa.ipc.new_file(file, batch.schema) as writer:
                writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        for raw in self._raw_paths.values():
            raw.unlink()

    def _tensor_array(self, name: str) -> pa.ExtensionArray:
        column = self._columns[name]
        value_type, size = pa.from_numpy_dtype(column.dtype), math.prod(column.shape)
        with pa.memory_map(str(self._raw_paths[name])) as mapped:
            buffer = mapped.read_buffer()
        values = pa.Array.from_buffers(value_type, self._num_rows * size, [None, buffer])
        storage = pa.FixedSizeListArray.from_arrays(values, size)
        return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(value_type, column.shape), storage)


def open_tensors(path: Path) -> dict[str, np.ndarray]:
    """Column name to its (rows, *shape) array, read-only and memory-mapped.

    While an array lives, a shared lock on the file says that it is in use (see `is_in_use`).

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it does not hold what `TensorWriter` writes.
    """
    with path.open("rb") as file:
        # mmap duplicates the descriptor, and the lock lives as long as any duplicate: as long as the mapping.
        with contextlib.suppress(OSError):  # file systems without locks
            fcntl.flock(file, fcntl.LOCK_SH)
        if not os.fstat(file.fileno()).st_size:
            raise DamagedFileError(f"{path.name} is empty")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        batch = pa.ipc.open_file(pa.py_buffer(mapped)).get_batch(0)
        return {name: batch.column(name).to_numpy_ndarray() for name in batch.schema.names}
    # What Arrow raises on a part of a file, or on bytes that are none; it is in memory, so no OSError is the disk's.
    except (ValueError, OSError, AttributeError) as error:
        raise DamagedFileError(f"{path.name} cannot be read: {error}") from error


def is_in_use(path: Path) -> bool:
    """Whether any process has arrays of this file; none has where there is no file, or had it before it was removed."""
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False
