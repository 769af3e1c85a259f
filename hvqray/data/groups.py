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
    first parenthesis, or by all that it matches. A sample that it does not match, and every sample where `pattern` is
    None, is by itself. Samples of two classes never belong together.
    """
    if pattern is None:
        return [str(sample.path) for sample in samples]
    regex = re.compile(pattern)
    matches = [regex.search(sample.path.stem) for sample in samples]
    return [
        str(sample.path) if match is None else f"{sample.class_name}/{match[1 if regex.groups else 0]}"
        for sample, match in zip(samples, matches, strict=True)
    ]
