"""A console for work that goes on for hours: where nobody takes its output any more, it goes on without."""

from __future__ import annotations

import sys
from typing import IO, Any, TextIO, cast

from rich.console import Console

from hvqray.steady_stderr import lead_nowhere, say_on_stderr


def steady_console() -> Console:
    """A console on standard output. Where its reader has left (`| head`, a closed pager) or its disk is full, that is told once on
    stderr and what else is printed goes nowhere; Rich by itself would end the process without a word."""
    # Without one, as some services start programs, Python has None.
    stdout: TextIO | None = sys.stdout
    return Console(
        file=None if stdout is None else cast("IO[str]", _Steady(stdout)),
        highlight=False,
        markup=False,
        emoji=False,
    )


class _Steady:
    """A text stream whose failure to write is no failure of whoever writes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._abandon(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._abandon(error)

    def _abandon(self, error: OSError) -> None:
        # By the descriptor, so that the stream has room for what it still holds: the interpreter writes that at its exit.
        lead_nowhere(self._stream)
        say_on_stderr(f"hvqray: standard output takes no more ({error.strerror}); going on without it")
