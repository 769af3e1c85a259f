"""The cache folder: entries that are built once per machine, appear whole or not at all, and are cleared when old.

An entry is a folder `KIND-KEY` with the file `tensors.arrow` and a line that describes it. Its key is made of everything
that decides its content, so entries never go stale; they are only ever added and removed. One that others have damaged (a clean-up
of temporary files takes single files away) is built anew.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
from filelock import FileLock, Timeout

from hvqray.atomic import expanded, naming
from hvqray.data.arrow_store import DamagedFileError, is_in_use, open_tensors
from hvqray.data.progress import Progress, silent
from hvqray.errors import InputError

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "HVQRAY_CACHE_DIR"
TENSORS = "tensors.arrow"
_DESCRIPTION = "description.txt"
_SYNTHETIC_PREFIX = "synthetic-"
_ENTRY_NAME = re.compile(r"[a-z]+-[0-9a-f]{32}")
"""By its name a folder is known as an entry where its files are gone: the cache may lie among folders that are none."""
_POLL_S = 0.25


def default_cache_dir() -> Path:
    """`$HVQRAY_CACHE_DIR`, or the user's cache folder."""
    return expanded(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_path("hvqray"))


def cache_dir_or_default(option: Path | None) -> Path:
    """The absolute folder of the cache: `option`, or the default one."""
    return expanded(option or default_cache_dir()).absolute()


def chosen_cache_dir(option: Path | None) -> Path | None:
    """The absolute folder that `--cache-dir` or `$HVQRAY_CACHE_DIR` names; None where neither does.

    Other nodes of a cluster are told of it. Where it is None, each takes its own user's cache folder.
    """
    chosen = option or os.environ.get(CACHE_VARIABLE)
    return expanded(chosen).absolute() if chosen else None


@dataclass(frozen=True)
class CacheEntry:
    """One entry as it lies on disk."""

    path: Path
    description: str
    size_bytes: int
    last_used: float
    """Seconds since the epoch."""
    in_use: bool
    is_damaged: bool = False
    """What it is there for is missing, so that it is of no use to anyone."""

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
    files: Sequence[str] = (),
) -> tuple[dict[str, np.ndarray], Path]:
    """Opens the tensors of an entry, and first builds it where there is none; returns them and the entry's folder.

    `build(folder)` writes `tensors.arrow`, and whatever else belongs to the entry, of which `files` must be there,
    into an empty folder. Of several processes that want an entry, one builds and the others wait; if it dies, the next
    one starts afresh. An entry that is damaged is replaced, of which a warning tells; whoever has it open keeps what it has.

    Raises:
        InputError: a damaged entry cannot be removed.
    """
    entry = cache_dir / name
    while True:
        try:
            tensors = _open(entry, files)
            _note_use(entry)
            return tensors, entry
        except (FileNotFoundError, DamagedFileError):
            _build_entry(entry, build, description, progress, files)


def _note_use(entry: Path) -> None:
    """Note when it was last used, unless it is another user's or lies on a disk that is only to be read."""
    try:
        os.utime(entry)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.EROFS):
            raise


def _open(entry: Path, files: Sequence[str]) -> dict[str, np.ndarray]:
    """The tensors of an entry.

    Raises:
        FileNotFoundError: there is no such entry.
        DamagedFileError: there is one, and one of its files is missing or cannot be read.
    """
    try:
        tensors = open_tensors(entry / TENSORS)
        for name in files:
            if not (entry / name).stat().st_size:
                raise DamagedFileError(f"{name} is empty")
    except (FileNotFoundError, NotADirectoryError) as error:
        # Between the two looks another process may have built it, which `_build_entry` sees.
        if os.path.lexists(entry):
            raise DamagedFileError(f"{Path(error.filename).name} is missing") from error
        raise
    return tensors


def _build_entry(
    entry: Path, build: Callable[[Path], None], description: str, progress: Progress, files: Sequence[str]
) -> None:
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
        try:
            _open(entry, files)
            return
        except FileNotFoundError:
            pass
        except DamagedFileError as damage:
            _discard_damaged(entry, damage)
        for leftover in entry.parent.glob(f".{entry.name}.part-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        builder_file.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        aside = Path(tempfile.mkdtemp(prefix=f".{entry.name}.part-", dir=entry.parent))
        try:
            with naming(entry):
                build(aside)
                (aside / _DESCRIPTION).write_text(description + "\n")
            _open(aside, files)  # or an entry that is damaged from the start would be built for ever
            aside.chmod(0o755)  # mkdtemp makes it private
            aside.rename(entry)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        finally:
            builder_file.unlink(missing_ok=True)
    finally:
        lock.release()


def _discard_damaged(entry: Path, damage: DamagedFileError) -> None:
    try:
        _discard(entry)
    except FileNotFoundError:  # someone else has removed it, and nothing is damaged any more
        return
    except OSError as error:
        raise InputError(
            f"is damaged ({damage}) and cannot be removed ({error.strerror}); remove it, or name another folder with --cache-dir",
            source=str(entry),
        ) from error
    logger.warning("%s: the cache entry is damaged (%s); it is built anew", entry, damage)


def _discard(entry: Path) -> None:
    """Removes an entry, whose lock is held; renamed first, so that no one opens half of it."""
    aside = Path(tempfile.mkdtemp(prefix=f".{entry.name}.part-", dir=entry.parent))
    try:
        entry.rename(aside / "removed")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def cache_entries(cache_dir: Path) -> list[CacheEntry]:
    """Everything in the cache, least recently used first."""
    folders = cache_dir.iterdir() if cache_dir.is_dir() else []
    found = (_read_entry(folder) for folder in folders if not folder.name.startswith("."))
    return sorted(
        (entry for entry in found if entry is not None), key=lambda entry: (entry.last_used, entry.path)
    )


def clear_cache(cache_dir: Path, *, limit_bytes: int = 0, keep: Path | None = None) -> list[CacheEntry]:
    """Removes damaged entries, and the least recently used ones until the rest takes at most `limit_bytes`; returns what was removed.

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
        if (total > limit_bytes or entry.is_damaged) and entry.path != keep and _remove(entry):
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
        if not folder.is_dir():
            return None
        size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        last_used = folder.stat().st_mtime
        if folder.name.startswith(_SYNTHETIC_PREFIX):
            return CacheEntry(
                folder, "the synthetic set", size_bytes, last_used, in_use=False, is_damaged=not size_bytes
            )
        has_tensors, is_described = ((folder / name).is_file() for name in (TENSORS, _DESCRIPTION))
        if not (has_tensors and is_described) and not _ENTRY_NAME.fullmatch(folder.name):
            return None
        description = (folder / _DESCRIPTION).read_text().strip() if is_described else "not described"
        if not has_tensors:
            description = f"damaged ({TENSORS} is missing): {description}"
        in_use = is_in_use(folder / TENSORS)
        return CacheEntry(folder, description, size_bytes, last_used, in_use, is_damaged=not has_tensors)
    except OSError:  # removed meanwhile
        return None


def _remove(entry: CacheEntry) -> bool:
    try:
        with FileLock(_lock_path(entry.path), timeout=0):
            if not entry.is_synthetic_set and is_in_use(entry.path / TENSORS):
                return False
            _discard(entry.path)
            return True
    except (Timeout, FileNotFoundError):
        return False
