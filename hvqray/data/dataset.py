"""What a dataset is: a list of samples in a fixed order, and index arrays that say which split each belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hvqray.models.context import ModelContext

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One image of a dataset."""

    path: Path
    class_name: str
    part: str
    """`train` or `test`, as the dataset has it, or `validation`, where it has that too."""
    defect: str
    """Defect type; `good` for normal images."""
    mask_path: Path | None = None
    mask_is_nonzero: bool = False
    """Whether every mask value but 0 is anomalous (VisA numbers defect types); else those above half of full scale."""
    group: str | None = None
    """What it shows, where its layout tells: images of one class with the same are views of one object. None: it is by itself."""
    synthetic_seed: int | None = None
    """Where set, a synthetic defect of this seed is drawn on the image and gives the mask (`validation: {from: synthetic}`)."""

    @property
    def is_anomalous(self) -> bool:
        return self.defect != GOOD

    @property
    def has_mask(self) -> bool:
        """Whether its anomalous pixels are known; a normal image has none."""
        return not self.is_anomalous or self.mask_path is not None or self.synthetic_seed is not None


@dataclass(frozen=True)
class Dataset:
    """Samples of one dataset, sorted by class, part, defect and file name."""

    root: Path
    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]
    layout: str = ""
    """As `data.layout` names it; empty where a reader was called by itself."""
    folders: tuple[Path, ...] = ()
    """Where the classes' images and masks lie; `check` names the images in them that are not read."""
    left_out: frozenset[Path] = frozenset()
    """Files in `folders` that are known not to be of use, and no fault."""
    remarks: tuple[str, ...] = ()
    """What a user must know of how the dataset is read, a line each."""


@dataclass(frozen=True, eq=False)
class Split:
    """One split (`train`, `val` or `test`) of cached data: rows of memory-mapped arrays, copied only when indexed.

    Legend: n images of this split, C feature channels, h x w feature grid, S image size.
    """

    name: str
    samples: tuple[Sample, ...]
    class_index: np.ndarray
    """(n,) int64, into `PreparedData.context.class_names`."""
    is_anomalous: np.ndarray
    """(n,) bool."""
    rows: np.ndarray
    """(n,) int64, rows of this split in the cached arrays."""
    all_features: np.ndarray
    """(N, C, h, w) float16, memory-mapped, all images of the cache."""
    all_images: np.ndarray
    """(N, 3, S, S) uint8, memory-mapped."""
    all_masks: np.ndarray
    """(N, S, S) uint8 of 0 and 1, memory-mapped; all 0 where an anomalous image has no mask."""
    has_mask: np.ndarray
    """(n,) bool; true for normal images. A class with an anomalous image without a mask has no pixel metrics."""

    def __len__(self) -> int:
        return len(self.rows)

    def features(self, index: np.ndarray) -> np.ndarray:
        """(len(index), C, h, w) float16 copy."""
        return self.all_features[self.rows[index]]

    def images(self, index: np.ndarray) -> np.ndarray:
        """(len(index), 3, S, S) uint8 copy."""
        return self.all_images[self.rows[index]]

    def masks(self, index: np.ndarray) -> np.ndarray:
        """(len(index), S, S) uint8 copy of 0 and 1."""
        return self.all_masks[self.rows[index]]

    def by_class(self) -> Iterator[tuple[int, np.ndarray]]:
        """`(class index, positions within this split)` for every class, in order, empty ones included."""
        for class_index in range(int(self.class_index.max(initial=-1)) + 1):
            yield class_index, np.flatnonzero(self.class_index == class_index)


@dataclass(frozen=True)
class PreparedData:
    """Everything a run reads: three splits over one cache."""

    context: ModelContext
    splits: dict[str, Split]
    """`train`, `val`, `test`; with `validation: {from: none}` `val` is the test split."""
    fingerprint: str
    """Hash of data, preprocessing and weights, as in the cache's key."""
    selected_on_test: bool
    """Whether `val` is the test split, so that outputs must say "selected on test"."""
    batchnorm: dict[str, np.ndarray] | None = None
    """With `adapt_batchnorm`, the backbone's re-estimated statistics, for `load_backbone` on new images; else None."""
