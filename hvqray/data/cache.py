"""The cache folder: entries that are built once per machine, appear whole or not at all, and are cleared when old.

An entry is a folder `KIND-KEY` with the file `tensors.arrow` and a line that describes it. Its key is made of everything
that decides its content, so entries never go stale; they are only ever added and removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
from filelock import FileLock, Timeout

from hvqray.data.arrow_store import is_in_use, open_tensors
from hvqray.data.progress import Progress, silent
from hvqray.errors import InputError

CACHE_VARIABLE = "HVQRAY_CACHE_DIR"
TENSORS = "tensors.arrow"
_DESCRIPTION = "description.txt"
_SYNTHETIC_PREFIX = "synthetic-"
_POLL_S = 0.25


def default_cache_dir() -> Path:
    """`$HVQRAY_CACHE_DIR`, or the user's cache folder."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_path("hvqray")).expanduser()


def chosen_cache_dir(option: Path | None) -> Path | None:
    """The absolute folder that `--cache-dir` or `$HVQRAY_CACHE_DIR` names; None where neither does.

    Other nodes of a cluster are told of it. Where it is None, each takes its own user's cache folder.
    """
    chosen = option or os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else None


@dataclass(frozen=True)
class CacheEntry:
    """One entry as it lies on disk."""

    path: Path
    description: str
    size_bytes: int
    last_used: float
    """Seconds since the epoch."""
    in_use: bool

    @property
    def is_synthetic_set(self) -> bool:
        return self.path.name.startswith(_SYNTHETIC_PREFIX)


def open_entry(
    cache_dir: Path,
    name: str,
    build: Callable[[Path], None],
    *,
    description: str,
    progress: Progress = silent,
) -> tuple[dict[str, np.ndarray], Path]:
    """Opens the tensors of an entry, and first builds it where there is none; returns them and the entry's folder.

    `build(folder)` writes `tensors.arrow`, and whatever else belongs to the entry, into an empty folder. Of
    several processes that want an entry, one builds and the others wait; if it dies, the next one starts afresh.
    """
    entry = cache_dir / name
    while True:
        try:
            tensors = open_tensors(entry / TENSORS)
            os.utime(entry)  # when it was last used
            return tensors, entry
        except FileNotFoundError:
            _build_entry(entry, build, description, progress)


def _build_entry(entry: Path, build: Callable[[Path], None], description: str, progress: Progress) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    builder_file = entry.with_name(f".{entry.name}.builder")
    lock = FileLock(_lock_path(entry))
    while True:
        try:
            lock.acquire(timeout=_POLL_S)
            break
        except Timeout:
            builder = "another process"
            with contextlib.suppress(OSError):
                builder = builder_file.read_text().strip() or builder
            progress(f"waiting for {builder} to finish {description}", 0, 0)
    try:
        if entry.is_dir():
            return
        for leftover in entry.parent.glob(f".{entry.name}.part-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        builder_file.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        aside = Path(tempfile.mkdtemp(prefix=f".{entry.name}.part-", dir=entry.parent))
        try:
            build(aside)
            (aside / _DESCRIPTION).write_text(description + "\n")
            aside.chmod(0o755)  # mkdtemp makes it private
            aside.rename(entry)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        finally:
            builder_file.unlink(missing_ok=True)
    finally:
        lock.release()


def cache_entries(cache_dir: Path) -> list[CacheEntry]:
    """Everything in the cache, least recently used first."""
    folders = cache_dir.iterdir() if cache_dir.is_dir() else []
    found = (_read_entry(folder) for folder in folders if not folder.name.startswith("."))
    return sorted(
        (entry for entry in found if entry is not None), key=lambda entry: (entry.last_used, entry.path)
    )


def clear_cache(cache_dir: Path, *, limit_bytes: int = 0, keep: Path | None = None) -> list[CacheEntry]:
    """Removes the least recently used entries until the rest takes at most `limit_bytes`; returns what was removed.

    What a process has open or is building stays, and so does `keep`: a synthetic set, which is drawn again where it is
    missing, is an entry like the others, but no process has its files open while it trains on it.
    """
    for leftover in cache_dir.glob(".*.part-*"):
        with contextlib.suppress(Timeout), FileLock(_lock_path(_entry_of(leftover)), timeout=0):
            shutil.rmtree(leftover, ignore_errors=True)
    entries = cache_entries(cache_dir)
    total = sum(entry.size_bytes for entry in entries)
    removed = []
    for entry in entries:
        if total <= limit_bytes:
            break
        if entry.path != keep and _remove(entry):
            removed.append(entry)
            total -= entry.size_bytes
    return removed


def parse_bytes(text: str, *, field: str) -> int:
    """Reads a size such as `20GB`, `500 MB` or `1GiB`, which the option `field` was given.

    Raises:
        InputError: it is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    if match is None:
        raise InputError(f"{text!r} is no size in bytes; write it like 20GB or 500MB", field=field)
    number, prefix, binary = match.groups()
    base = 1024 if binary else 1000
    return int(float(number) * base ** " kmgt".index(prefix.lower() or " "))


def _lock_path(entry: Path) -> Path:
    return entry.with_name(f".{entry.name}.lock")


def _entry_of(leftover: Path) -> Path:
    return leftover.with_name(leftover.name[1:].rpartition(".part-")[0])


def _read_entry(folder: Path) -> CacheEntry | None:
    try:
        size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        last_used = folder.stat().st_mtime
        if folder.name.startswith(_SYNTHETIC_PREFIX):
            return CacheEntry(folder, "the synthetic set", size_bytes, last_used, in_use=False)
        description = (folder / _DESCRIPTION).read_text().strip()
        return CacheEntry(folder, description, size_bytes, last_used, is_in_use(folder / TENSORS))
    except OSError:  # no entry, or removed meanwhile
        return None


def _remove(entry: CacheEntry) -> bool:
    try:
        with FileLock(_lock_path(entry.path), timeout=0):
            if not entry.is_synthetic_set and is_in_use(entry.path / TENSORS):
                return False
            # Renamed first, so that no one opens half an entry.
            aside = Path(tempfile.mkdtemp(prefix=f".{entry.path.name}.part-", dir=entry.path.parent))
            entry.path.rename(aside / "removed")
            shutil.rmtree(aside, ignore_errors=True)
            return True
    except (Timeout, FileNotFoundError):
        return False
