"""Lines on standard error from work that goes on, whether or not anybody reads them."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def say_on_stderr(line: str) -> None:
    """One line on standard error; where that takes no more (its reader has left, its disk is full), the line and all later ones go nowhere."""
    stderr: TextIO | None = sys.stderr
    if stderr is None:  # as where some services start programs
        return
    try:
        stderr.write(f"{line}\n")
        stderr.flush()
    except OSError:
        lead_nowhere(stderr)


def lead_nowhere(stream: TextIO) -> None:
    """What the stream holds and is given from now on is lost, without an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    with contextlib.suppress(OSError):
        stream.flush()
