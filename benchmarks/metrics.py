"""All seven metrics on maps of MVTec AD's size (1725 maps of 256 x 256 in 15 classes) against scikit-learn and scikit-image.

The libraries take minutes a class, so they are timed on the first `SLOW_CLASSES` classes only, class by class beside
this project's; the whole set is timed for this project's alone.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.measure import label, regionprops
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from benchmarks.measure import print_table, quick_flag, spread
from hvqray.metrics import MaskRegions, image_metrics, pixel_metrics

Metrics = TypeVar("Metrics")
NUM_CLASSES, IMAGES_PER_CLASS, SIDE = 15, 115, 256
SLOW_CLASSES = 3
NUM_THRESHOLDS = 200
"""Of the region-overlap curve as published evaluations step through it; it is not exact, this project's is."""


def main(argv: Sequence[str] | None = None) -> None:
    quick = quick_flag("the seven metrics: scikit-learn and scikit-image against this project's", argv)
    num_classes, images, side, slow = (
        (2, 6, 32, 1) if quick else (NUM_CLASSES, IMAGES_PER_CLASS, SIDE, SLOW_CLASSES)
    )
    first, again = 0.0, 0.0
    ratios: list[float] = []
    rows: list[list[object]] = []
    for number in range(num_classes):
        case = _one_class(number, images, side)
        first_s, values = _timed(partial(ours, *case))
        regions = MaskRegions.from_masks(case.masks)
        again_s, _ = _timed(partial(ours, *case, regions=regions))
        first, again = first + first_s, again + again_s
        if number < slow:
            slow_s, expected = _timed(partial(libraries, *case))
            ratios.append(slow_s / first_s)
            difference = abs((values["pixel_aupro"] or 0.0) - expected["pixel_aupro"])
            rows += [
                [
                    f"class {number}",
                    slow_s,
                    first_s,
                    slow_s / first_s,
                    _largest_difference(values, expected),
                    difference,
                ]
            ]
    header = ("", "libraries s", "ours s", "ratio", "largest difference of six", "difference of AUPRO")
    print_table(header, rows)
    print(f"ratio over {slow} of {num_classes} classes: {spread(np.array(ratios))}; target 20")
    print(
        f"ours, all {num_classes * images} maps: {first:.2f} s first, {again:.2f} s with the masks' regions known"
    )
    case = _one_class(0, images, side)
    peaks = [_peak_bytes(work, case) / 1e6 for work in (ours, libraries)]
    print(
        f"peak of memory beside one class's maps and masks: ours {peaks[0]:.0f} MB, libraries {peaks[1]:.0f} MB"
    )


class Case(NamedTuple):
    """One class."""

    masks: np.ndarray
    """(n, S, S) uint8."""
    maps: np.ndarray
    """(n, S, S) float32."""
    labels: np.ndarray
    scores: np.ndarray


def ours(
    masks: np.ndarray,
    maps: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    regions: MaskRegions | None = None,
) -> dict[str, float | None]:
    """This project's; `regions` where an earlier evaluation has found them, as in all but a trial's first."""
    return image_metrics(labels, scores) | pixel_metrics(maps, regions or MaskRegions.from_masks(masks))


def libraries(
    masks: np.ndarray, maps: np.ndarray, labels: np.ndarray, scores: np.ndarray
) -> dict[str, float]:
    """The same seven, as published evaluations call the libraries."""
    found: dict[str, float] = {}
    for kind, truth, values in (("image", labels, scores), ("pixel", masks.ravel() > 0, maps.ravel())):
        precision, recall, _ = precision_recall_curve(truth, values)
        found[f"{kind}_auroc"] = float(roc_auc_score(truth, values))
        found[f"{kind}_ap"] = float(average_precision_score(truth, values))
        found[f"{kind}_f1max"] = float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))
    found["pixel_aupro"] = _region_overlap(masks, maps)
    return found


def _region_overlap(masks: np.ndarray, maps: np.ndarray) -> float:
    overlaps, rates = [], []
    normal = masks == 0
    for threshold in np.linspace(maps.min(), maps.max(), NUM_THRESHOLDS):
        called = maps > threshold
        shares = []
        for called_HW, mask_HW in zip(called, masks, strict=True):
            for region in regionprops(label(mask_HW, connectivity=2)):
                rows, columns = region.coords[:, 0], region.coords[:, 1]
                shares.append(called_HW[rows, columns].sum() / region.area)
        overlaps.append(np.mean(shares))
        rates.append((called & normal).sum() / normal.sum())
    kept = np.array(rates) < 0.3
    rate, overlap = np.array(rates)[kept], np.array(overlaps)[kept]
    return float(auc(rate / rate.max(), overlap))


def _one_class(seed: int, num_images: int, side: int) -> Case:
    """Smooth maps, raised where the masks of two thirds of the images say; labels and scores."""
    rng = np.random.default_rng(seed)
    maps = np.stack([gaussian_filter(rng.normal(size=(side, side)), 4) for _ in range(num_images)]).astype(
        np.float32
    )
    masks = np.zeros(maps.shape, np.uint8)
    labels = np.arange(num_images) % 3 > 0
    for index in np.flatnonzero(labels):
        for _ in range(rng.integers(1, 4)):
            row, column = rng.integers(0, side - side // 8, 2)
            masks[index, row : row + side // 8, column : column + side // 8] = 1
    maps += 1.5 * maps.std() * masks
    return Case(masks, maps, labels, maps.max(axis=(1, 2)))


def _timed(work: Callable[[], Metrics]) -> tuple[float, Metrics]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def _peak_bytes(work: Callable[..., object], case: Case) -> int:
    """Most memory held at once; measured apart from the time, which tracing lengthens."""
    tracemalloc.start()
    work(*case)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def _largest_difference(values: dict[str, float | None], expected: dict[str, float]) -> float:
    """Over the six metrics that the libraries compute exactly."""
    exact = [name for name in expected if name != "pixel_aupro"]
    return max(abs((values[name] or 0.0) - expected[name]) for name in exact)


if __name__ == "__main__":
    main()
