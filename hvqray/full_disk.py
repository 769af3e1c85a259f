"""What a disk says that takes no more, however it reaches us."""

from __future__ import annotations

import errno
import os
import shutil

MENDS = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space, or have the quota raised",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EROFS: "make it writable",
}
"""By the number of the error, the mend."""


def refused_by_disk(error: BaseException | None) -> tuple[int, str | None] | None:
    """Error number and file, if it names one, where an error or what caused it is that a disk takes no more.

    Ray raises what was raised in another process as an error whose `cause` is that.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in MENDS:
            return error.errno, None if error.filename is None else os.fsdecode(error.filename)
        if isinstance(error, shutil.Error) and (refused := _copy_refused(error)):
            return refused
        if getattr(error, "sqlite_errorname", None) == "SQLITE_FULL":
            return errno.ENOSPC, None
        cause = getattr(error, "cause", None)
        # Ray Tune raises another error while it handles what a callback raised, and names no cause.
        error = cause if isinstance(cause, BaseException) else error.__cause__ or error.__context__
    return None


def _copy_refused(error: shutil.Error) -> tuple[int, str] | None:
    """Of a folder that was copied: what it says of each file that failed is text, without a number."""
    failed = error.args[0] if isinstance(error.args[0], list) else []
    for _, place, reason in failed:
        for number in MENDS:
            if os.strerror(number) in reason:
                return number, place
    return None
