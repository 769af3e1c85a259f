"""What a dataset holds, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from hvqray.data.bit_depth import Largest, is_deep_colour, is_deep_grey, largest_of
from hvqray.data.dataset import Dataset, Sample
from hvqray.data.files import ALL_PARTS, VALIDATION
from hvqray.data.image_files import open_image
from hvqray.data.images import read_image
from hvqray.errors import InputError

NUM_DECODED = 16
"""So many of a class's 16-bit images, evenly spread, are decoded for their largest value."""


def describe_dataset(dataset: Dataset) -> tuple[Table, dict[str, Largest]]:
    """One row per class: counts per part and defect type, masks, image sizes and modes, from the files' headers.

    And by class the largest values of some of the 16-bit images, which alone are decoded.
    """
    table = Table(title=f"{dataset.root} ({dataset.layout})", title_justify="left")
    has_own = any(sample.part == VALIDATION for sample in dataset.samples)
    headings = ["class", "train good", "test good", "test defect", "masks", "sizes", "modes"]
    if has_own:
        headings[2:2] = ["validation good", "validation defect"]
    for heading in headings:
        table.add_column(heading, justify="right" if heading.endswith("good") else "left")
    largest: dict[str, Largest] = {}
    for name in dataset.class_names:
        samples = [sample for sample in dataset.samples if sample.class_name == name]
        by_part = {part: [sample for sample in samples if sample.part == part] for part in ALL_PARTS}
        defects = {
            part: [sample for sample in found if sample.is_anomalous] for part, found in by_part.items()
        }
        of_all = [sample for found in defects.values() for sample in found]
        counts: list[str] = []
        for part in (VALIDATION, "test") if has_own else ("test",):
            counts += str(len(by_part[part]) - len(defects[part])), _defect_counts(defects[part])
        headers = _Headers([sample.path for sample in samples])
        largest[name] = _largest_values(headers.deep)
        table.add_row(
            name,
            str(len(by_part["train"])),
            *counts,
            f"{sum(sample.has_mask for sample in of_all)} of {len(of_all)}",
            headers.sizes(),
            headers.modes(),
        )
    return table, largest


def _defect_counts(defects: Sequence[Sample]) -> str:
    counts = Counter(sample.defect for sample in defects)
    return "\n".join(
        [str(len(defects)), *(f"  {defect} {count}" for defect, count in sorted(counts.items()))]
    )


class _Headers:
    """What the headers of image files say."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._sizes: set[tuple[int, int]] = set()
        self._modes: Counter[str] = Counter()
        self.deep: list[Path] = []
        """Files of 16 bits."""
        for path in paths:
            try:
                with open_image(path) as image:
                    self._sizes.add(image.size)
                    self._modes[image.mode] += 1
                    if is_deep_grey(image) or is_deep_colour(image):
                        self.deep.append(path)
            except InputError:
                self._modes["unreadable"] += 1

    def sizes(self) -> str:
        """`WIDTHxHEIGHT`; smallest and largest, and how many there are, where they differ."""
        ordered = [f"{w}x{h}" for w, h in sorted(self._sizes, key=lambda size: size[0] * size[1])]
        if len(ordered) < 2:
            return ordered[0] if ordered else "-"
        return f"{ordered[0]} to {ordered[-1]} ({len(ordered)})"

    def modes(self) -> str:
        """Pillow's names with their counts."""
        return ", ".join(f"{mode} {count}" for mode, count in sorted(self._modes.items()))


def _largest_values(paths: Sequence[Path]) -> Largest:
    num = min(len(paths), NUM_DECODED)
    found = []
    for position in range(num):
        try:
            found.append(read_image(paths[position * len(paths) // num])[1])
        except InputError:  # `check` names it
            continue
    return largest_of(found)
