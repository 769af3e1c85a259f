"""What a user did wrong, told in one line.

Every command turns :class:`InputError` into one line on stderr and exit code 2; anything else is an
internal error (exit code 1). So raise `InputError` for whatever the user can mend, and nothing else.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_NUM_SHOWN = 4


class InputError(Exception):
    """The user's input is at fault.

    The message is one line that names the place (file and field), the value, and the mend, for example
    ``search_spaces/fsq.yaml: model.codebok_size: unknown key; did you mean 'codebook_size'?``.
    """

    def __init__(self, message: str, *, source: str | None = None, field: str | None = None) -> None:
        self.message, self.source, self.field = " ".join(message.split()), source, field
        super().__init__(": ".join(part for part in (source, field, self.message) if part))


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the nearest candidate, or `"; known: a, b, c"` where none is near."""
    known = sorted(set(candidates))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""


def counted(number: int, noun: str) -> str:
    """`1 image`, `2 images`, `2 classes`."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"


def shortened(names: Sequence[str]) -> str:
    """`bolt, nut`; of more than four the first four, and how many others there are."""
    others = len(names) - _NUM_SHOWN
    if others <= 0:
        return ", ".join(names)
    return f"{', '.join(names[:_NUM_SHOWN])} and {others} others"
