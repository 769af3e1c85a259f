"""An append-only file of JSON lines that survives `kill -9`: every line is on the disk before the call returns."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hvqray.errors import InputError


class Journal:
    """Appends records to `path`; a last line that a crash tore off is cut first."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab+")
        whole = _length_of_whole_lines(self._file.fileno())
        if whole < self._file.seek(0, os.SEEK_END):
            self._file.truncate(whole)

    def append(self, record: dict[str, Any]) -> None:
        """Write one record and wait until it is on the disk."""
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":"), default=_plain)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a journal, in order; a torn last line is passed over.

    Raises InputError where any other line is not JSON.
    """
    return (record for _, record in numbered_records(path))


def numbered_records(path: Path, *, but: str | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of each line, from 1, and its record, as `read_records` gives them, without those of the event `but`."""
    # As `append` writes it: what nobody wants, most of a long journal, need not be parsed.
    passed_over = None if but is None else f'{{"event":"{but}",'.encode()
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            if passed_over and line.startswith(passed_over):
                continue
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise InputError(
                    f"line {number} is damaged ({error}); restore the file, or start the sweep under a new name",
                    source=str(path),
                ) from error


def _length_of_whole_lines(descriptor: int) -> int:
    """Bytes up to and including the last newline, found from the end."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays as JSON knows them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not go into the journal")
