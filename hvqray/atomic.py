"""Files that are whole at any moment: written aside, then renamed; where they go to, and which file an error is about."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hvqray.errors import InputError


def expanded(path: str | Path) -> Path:
    """`path` with `~` and `~NAME` as a shell has them: where nobody is called so, it is a file's name like any other.

    `Path.expanduser` ends a command there with an error of the program's own.
    """
    return Path(os.path.expanduser(path))


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a path beside `target` to write to; it takes `target`'s place when the block ends without an error.

    An OSError that names no file, or the one aside, names `target`.
    """
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=_aside_prefix(target))
    except OSError as error:
        error.filename = str(target)
        raise
    os.close(handle)
    aside = Path(name)
    try:
        with naming(target):
            yield aside
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o666 & ~umask)  # mkstemp's files are private; a result is not
        os.replace(aside, target)
    except BaseException as error:
        if isinstance(error, OSError) and str(error.filename) == name:
            error.filename = str(target)
        aside.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target`; it takes `target`'s place when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    new, old = workspace / "new", workspace / "old"
    try:
        new.mkdir()
        yield new
        if target.exists():
            os.replace(target, old)
        os.replace(new, target)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def remove_unfinished(target: Path) -> None:
    """Remove what processes that were killed while they wrote `target` have left beside it."""
    for aside in target.parent.glob(f"{glob.escape(_aside_prefix(target))}*"):
        aside.unlink(missing_ok=True)


def _aside_prefix(target: Path) -> str:
    # Cut to 60 characters, 240 bytes at most: with what mkstemp adds, a name has 255 on most file systems.
    return f".{target.name:.60}."


def flush_to_disk(path: Path) -> None:
    """Wait until what was written to `path` is on the disk, so that it outlives a power cut too."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError of the block that names no file name `path`: when a write fails, the system only says why."""
    try:
        yield
    except OSError as error:
        if (
            error.filename is None and error.errno is not None
        ):  # without a number, the name would hide the text
            error.filename = str(path)
        raise


def check_file(target: Path, *, option: str) -> None:
    """See that `target`, which the user named by `option`, can be written, before any work is done for it.

    Raises:
        InputError: it is a folder, its name is too long, or its folder, where it exists, cannot be written to.
    """
    try:
        reason = "it is a folder" if target.is_dir() else None
    except OSError as error:
        reason = error.strerror
    if reason is None and target.parent.is_dir() and not os.access(target.parent, os.W_OK):
        reason = "its folder is not writable"
    if reason:
        raise InputError(f"cannot be written ({reason}); name another file", field=f"{option} {target}")


def check_folder_can_be_made(folder: Path, *, option: str) -> None:
    """See that `make_folder` could make `folder`, before any work is done for it. Raises InputError as it does."""
    try:
        nearest = next(each for each in (folder, *folder.parents) if each.exists() or each.is_symlink())
        reason = _unwritable(nearest) if nearest.is_dir() else os.strerror(errno.ENOTDIR)
    except OSError as error:
        reason = error.strerror
    _refuse(reason, folder, option)


def make_folder(folder: Path, *, option: str) -> list[Path]:
    """Make `folder`, which the user named by `option`, unless it is there.

    Returns the folders that were made, the innermost first.

    Raises:
        InputError: it cannot be made, or not be written to.
    """
    made: list[Path] = []
    try:
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        reason = _unwritable(folder)
    except OSError as error:
        reason = error.strerror
    _refuse(reason, folder, option)
    return made


def _unwritable(folder: Path) -> str | None:
    """Why nothing can be written to a folder that is there; None where it can."""
    if os.access(folder, os.W_OK):
        return None
    read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
    return os.strerror(errno.EROFS if read_only else errno.EACCES)


def _refuse(reason: str | None, folder: Path, option: str) -> None:
    if reason:
        raise InputError(f"cannot be written to ({reason}); name another folder", field=f"{option} {folder}")


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of the folders, the innermost first, that hold nothing."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def write_atomically(target: Path, content: str | bytes) -> None:
    """Replace `target` by `content`."""
    with replacing(target) as aside, aside.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
