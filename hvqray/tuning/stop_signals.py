"""SIGTERM and Ctrl-C that stop a sweep wherever they come, while Python imports and Ray starts too."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SignalHandler = Callable[[int, FrameType | None], Any]

_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"
"""The file of Python's import in its own code objects."""
_AGAIN_S = 0.02


def heed_stops(heard: list[int]) -> None:
    """A batch system's or a Ray job's polite stop (SIGTERM) is the same as Ctrl-C, which a shell may have switched off for what it runs behind.

    Each signal's number goes to `heard`: Python loses the exception of one that comes while it forks.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _not_within_an_import(signal.default_int_handler, heard))
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _not_within_an_import(signal.default_int_handler, heard))


def have_ray_heed_stops_so(heard: list[int]) -> None:
    """Ray sets handlers of its own for SIGTERM while it starts. They cannot be kept out, so they are wrapped where this version of Ray
    allows it."""
    from ray._private import utils

    set_handler = getattr(utils, "set_sigterm_handler", None)
    if set_handler is None:
        return
    of_ray = getattr(set_handler, "__wrapped__", set_handler)

    @functools.wraps(of_ray)
    def set_wrapped(handler: SignalHandler) -> None:
        of_ray(_not_within_an_import(handler, heard))

    utils.set_sigterm_handler = set_wrapped


def _not_within_an_import(handler: SignalHandler, heard: list[int]) -> SignalHandler:
    """`handler`, which raises, once the signal is among those `heard`; a moment later where it comes within Python's import.

    Raised there, the exception may leave the lock that all threads import under taken for ever (CPython 3.11): the next thread that
    imports waits, and whoever joins it does too. The code of a module that is being imported may well be left.
    """

    def heed(number: int, frame: FrameType | None) -> None:
        if frame is None or frame.f_code.co_filename != _IMPORT_SYSTEM:
            heard.append(number)
            handler(number, frame)
        else:
            signal.signal(signal.SIGALRM, lambda _, later: heed(number, later))
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)

    return heed
