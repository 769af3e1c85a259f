"""What a dataset holds, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from rich.table import Table

from hvqray.data.dataset import Dataset, Sample


def dataset_table(dataset: Dataset) -> Table:
    """One row per class: counts per part and defect type, masks, image sizes and modes, from the files' headers."""
    table = Table(title=f"{dataset.root} ({dataset.layout})", title_justify="left")
    for heading in ("class", "train good", "test good", "test defect", "masks", "sizes", "modes"):
        table.add_column(heading, justify="right" if heading.startswith(("train", "test good")) else "left")
    for name in dataset.class_names:
        samples = [sample for sample in dataset.samples if sample.class_name == name]
        test = [sample for sample in samples if sample.part == "test"]
        defects = [sample for sample in test if sample.is_anomalous]
        sizes, modes = _sizes_and_modes([sample.path for sample in samples])
        table.add_row(
            name,
            str(len(samples) - len(test)),
            str(len(test) - len(defects)),
            _defect_counts(defects),
            f"{sum(sample.has_mask for sample in defects)} of {len(defects)}",
            sizes,
            modes,
        )
    return table


def _defect_counts(defects: Sequence[Sample]) -> str:
    counts = Counter(sample.defect for sample in defects)
    return "\n".join(
        [str(len(defects)), *(f"  {defect} {count}" for defect, count in sorted(counts.items()))]
    )


def _sizes_and_modes(paths: Sequence[Path]) -> tuple[str, str]:
    """Sizes as `WIDTHxHEIGHT`, smallest and largest where they differ; modes by Pillow's names with their counts."""
    sizes: set[tuple[int, int]] = set()
    modes: Counter[str] = Counter()
    for path in paths:
        try:
            with Image.open(path) as image:
                sizes.add(image.size)
                modes[image.mode] += 1
        except (OSError, ValueError, SyntaxError):
            modes["unreadable"] += 1
    ordered = [f"{width}x{height}" for width, height in sorted(sizes, key=lambda size: size[0] * size[1])]
    text = (
        ordered[0]
        if len(ordered) == 1
        else f"{ordered[0]} to {ordered[-1]} ({len(ordered)})"
        if ordered
        else "-"
    )
    return text, ", ".join(f"{mode} {count}" for mode, count in sorted(modes.items()))
