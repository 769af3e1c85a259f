"""Images that belong together: crops of a photograph, views of an object, exposures of a part.

Were some of them in `val` and some in `test`, `test` would hold what the search has looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hvqray.data.dataset import Sample


def group_names(samples: Sequence[Sample], pattern: str | None) -> list[str]:
    """A name a sample, the same for those that belong together.

    `pattern` is a regular expression that is searched for in the file's name without suffix; the group is called by its
    first parenthesis, or by all that it matches. A sample that it does not match is by itself. Where `pattern` is None, the groups are
    those that the dataset's layout tells of (`Sample.group`). Samples of two classes never belong together.
    """
    named = (
        [sample.group for sample in samples]
        if pattern is None
        else _matches([sample.path.stem for sample in samples], re.compile(pattern))
    )
    return [
        str(sample.path) if name is None else f"{sample.class_name}/{name}"
        for sample, name in zip(samples, named, strict=True)
    ]


def matches_any(samples: Sequence[Sample], pattern: str) -> bool:
    """Whether the regular expression puts any sample into a group."""
    return any(
        name is not None for name in _matches([sample.path.stem for sample in samples], re.compile(pattern))
    )


def _matches(stems: Sequence[str], regex: re.Pattern[str]) -> list[str | None]:
    found = [regex.search(stem) for stem in stems]
    return [None if match is None else match[1 if regex.groups else 0] for match in found]
