"""How often the codes of each level occurred in an evaluation, and what that says of the codebooks.

Legend: B batch, L tokens of an image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from hvqray.metrics import CodePairs, add_pairs, codebook_use, count_codes, count_pairs, perplexity_given


@dataclass
class CodeTally:
    """Codes of some images, by class and level; and with which code of the top level each of a lower one came together.

    At levels where every class has codes of its own the class is the one whose codes they are, which a router that errs may have taken
    for this one; else it is the image's. A pair has codes of its own where one of its levels has.
    """

    sizes: Mapping[str, int]
    """Level to the codes of its codebook, from the top."""
    per_class: Collection[str]
    """Levels at which every class has its own."""
    codes: dict[int, dict[str, Counter[int]]] = field(default_factory=dict)
    pairs: dict[int, dict[str, CodePairs]] = field(default_factory=dict)
    """Of levels below the top that are on the same grid."""

    def add(
        self,
        codes: Mapping[str, Int[np.ndarray, "B L"]],
        class_B: Int[np.ndarray, " B"],
        routed_B: Int[np.ndarray, " B"],
    ) -> None:
        """Count the codes of images of these classes that were taken for those."""
        for level, codes_BL in codes.items():
            owner_B = routed_B if level in self.per_class else class_B
            for owner in np.unique(owner_B).tolist():
                counts = self.codes.setdefault(owner, {}).setdefault(level, Counter())
                counts.update(count_codes(codes_BL[owner_B == owner]))
            top_BL = codes[self._top]
            if level == self._top or top_BL.shape != codes_BL.shape:
                continue
            owner_B = routed_B if self._has_own_pairs(level) else class_B
            sizes = (self.sizes[self._top], self.sizes[level])
            for owner in np.unique(owner_B).tolist():
                pairs = count_pairs(top_BL[owner_B == owner], codes_BL[owner_B == owner], sizes=sizes)
                self._add_pairs(owner, level, pairs)

    def update(self, other: CodeTally) -> None:
        """Add what another one counted."""
        for owner, levels in other.codes.items():
            for level, counts in levels.items():
                self.codes.setdefault(owner, {}).setdefault(level, Counter()).update(counts)
        for owner, of_levels in other.pairs.items():
            for level, pairs in of_levels.items():
                self._add_pairs(owner, level, pairs)

    def _add_pairs(self, owner: int, level: str, pairs: CodePairs) -> None:
        levels = self.pairs.setdefault(owner, {})
        levels[level] = add_pairs([levels[level], pairs]) if level in levels else pairs

    def health(self, class_names: Sequence[str]) -> dict[str, float | None]:
        """`codebook/LEVEL/use`, `codebook/LEVEL/perplexity`, and below the top, on its grid, `codebook/LEVEL/perplexity_given_top`; with `/CLASS`
        after LEVEL, of one class's images.

        A shared codebook is judged by the images of all classes; at levels where every class has its own, those with a
        class are of the images that were taken for that class, and those without one are means over the classes seen.
        """
        health: dict[str, float | None] = {}
        for level, size in self.sizes.items():
            counts = {
                owner: levels[level] for owner, levels in sorted(self.codes.items()) if levels.get(level)
            }
            use = {owner: codebook_use(count, size) for owner, count in counts.items()}
            judged = list(use.values())
            if counts and level not in self.per_class:
                judged = [codebook_use(sum(counts.values(), Counter()), size)]
            health[f"codebook/{level}/use"] = _mean([share for share, _ in judged])
            health[f"codebook/{level}/perplexity"] = _mean([perplexity for _, perplexity in judged])
            for owner, (share, perplexity) in use.items():
                health[f"codebook/{level}/{class_names[owner]}/use"] = share
                health[f"codebook/{level}/{class_names[owner]}/perplexity"] = perplexity
            health |= self._given_top(level, class_names)
        return health

    def _given_top(self, level: str, class_names: Sequence[str]) -> dict[str, float | None]:
        pairs = {owner: levels[level] for owner, levels in sorted(self.pairs.items()) if level in levels}
        if not pairs:
            return {}
        given = {owner: perplexity_given(each) for owner, each in pairs.items()}
        together: float | None = perplexity_given(add_pairs(list(pairs.values())))
        if self._has_own_pairs(level):
            together = _mean(list(given.values()))
        return {f"codebook/{level}/perplexity_given_top": together} | {
            f"codebook/{level}/{class_names[owner]}/perplexity_given_top": each
            for owner, each in given.items()
        }

    @property
    def _top(self) -> str:
        return next(iter(self.sizes))

    def _has_own_pairs(self, level: str) -> bool:
        return level in self.per_class or self._top in self.per_class


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
