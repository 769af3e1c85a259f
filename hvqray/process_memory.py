"""How much of the machine's memory this process holds, as Linux counts it; None where there is no Linux to ask.

Resident memory counts the pages of mapped files too: libraries and the feature cache, which processes of a machine share,
and which the kernel takes back where memory grows scarce. So the processes' numbers add up to more than they take together.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESTART_PEAK = "5"
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of malloc.h."""


def resident_bytes() -> int | None:
    """Resident memory now."""
    return _from_status("VmRSS")


def peak_resident_bytes() -> int | None:
    """The most resident memory since the last `restart_peak`, or since the process began where there was none."""
    return _from_status("VmHWM")


def restart_peak() -> None:
    """Let the peak begin anew at what is in use now: what was freed and kept (`keep_freed_memory`) is given back first.

    `getrusage` could not tell the trials of a reused process apart: its peak is that of the process's whole life. So it
    remains here too where the kernel refuses (Linux before 4.0, some sandboxes); the peak is then one that is too high.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        _CLEAR_REFS.write_text(_RESTART_PEAK)


@functools.cache
def keep_freed_memory() -> None:
    """Let this process keep what it frees, for its next arrays; does nothing where the C library is not glibc.

    As it comes, glibc gives every freed array of some size back to the kernel, and each step's temporaries are then faulted in and
    cleared anew, page by page. The most that the process holds at a time stays the same.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        # Versions differ in how large a threshold they take; what they refuse changes nothing.
        if not mallopt(_MMAP_THRESHOLD, 2**30):
            mallopt(_MMAP_THRESHOLD, 2**25)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def _from_status(name: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(values[0]) if values else None
