"""Imports without garbage collection in between."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pause Python's cyclic garbage collector while a process that has just started imports what it needs.

    Modules, classes and functions live as long as the process: looking for garbage among them, a fifth of what importing
    torch and Ray Tune takes, finds next to nothing. Later collections leave out what there is at the end, so this
    is not for a process that already holds what it will want to be rid of.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        leave_out_of_collections()
        gc.enable()


def leave_out_of_collections() -> None:
    """Have later collections leave out what there is now, mostly what was imported: a fifth of a second to look through."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # else extension modules report at the end that they leak
