"""Digests of files' contents, remembered by path, size and modification time so that a second start reads none."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hvqray.atomic import replacing
from hvqray.data.progress import Progress, silent
from hvqray.errors import InputError

_NUM_THREADS = min(8, os.cpu_count() or 1)


def file_digests(paths: Sequence[Path], memo: Path, *, progress: Progress = silent) -> dict[Path, str]:
    """BLAKE2b of each file's bytes; `memo` is the JSON file that remembers them.

    Raises:
        InputError: a file cannot be read.
    """
    known = _read_memo(memo)
    stamps = {path: _stamp(path) for path in paths}
    digests = {path: known[str(path)][2] for path in stamps if known.get(str(path), [])[:2] == stamps[path]}
    unknown = [path for path in stamps if path not in digests]
    if unknown:
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            for done, (path, digest) in enumerate(
                zip(unknown, pool.map(_digest_file, unknown), strict=True), start=1
            ):
                digests[path] = digest
                progress("reading files", done, len(unknown))
        known |= {str(path): [*stamps[path], digests[path]] for path in unknown}
        memo.parent.mkdir(parents=True, exist_ok=True)
        with replacing(memo) as aside:
            aside.write_text(json.dumps(known))
    return digests


def digest_texts(texts: Iterable[str]) -> str:
    """One digest (128 bits, hexadecimal) of a sequence of strings."""
    state = hashlib.blake2b(digest_size=16)
    for text in texts:
        encoded = text.encode()
        state.update(len(encoded).to_bytes(8, "little") + encoded)
    return state.hexdigest()


def _read_memo(memo: Path) -> dict[str, list]:
    try:
        content = json.loads(memo.read_text())
    except (OSError, ValueError):
        content = None
    return content if isinstance(content, dict) else {}  # a lost memo is no more than a slower start


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", source=str(path)) from None
    return [status.st_size, status.st_mtime_ns]


def _digest_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", source=str(path)) from None
