"""Files that are whole at any moment: written aside, then renamed; and the folders that they go to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hvqray.errors import InputError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a path beside `target` to write to; it takes `target`'s place when the block ends without an error."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o666 & ~umask)  # mkstemp's files are private; a result is not
        os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def make_folder(folder: Path, *, option: str) -> None:
    """Make `folder`, which the user named by `option`, unless it is there.

    Raises:
        InputError: it cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(folder, os.W_OK) else "Permission denied"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise InputError(f"cannot be written to ({reason}); name another folder", field=f"{option} {folder}")


def write_atomically(target: Path, content: str | bytes) -> None:
    """Replace `target` by `content`."""
    with replacing(target) as aside, aside.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
