"""What a baseline reaches on `val` and `test`: one model a class, on the models' features and by their metrics.

A baseline has few settings of its own. All of them are measured, so that one can be chosen on `val` as a sweep
chooses its configuration: the same for all classes. Libraries of such methods (anomalib) bring data loading, a
training loop and metrics of their own, with which figures would not compare.

Legend: n images of one class, C feature channels, h x w feature grid, H x W image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from hvqray.baselines.padim import Padim
from hvqray.baselines.patchcore import PatchCore
from hvqray.data.dataset import PreparedData, Split
from hvqray.data.progress import Progress, silent
from hvqray.metrics import MaskRegions, image_metrics, pixel_metrics, summarize
from hvqray.models.map_ops import gaussian_smooth, pooled_score, upsample_map

BaselineName = Literal["padim", "patchcore"]
Metrics = dict[str, float | None]
Settings = dict[str, str | int]

SMOOTHING_SIGMA = 4.0
"""Standard deviation of the Gaussian that smooths the maps, in pixels (both papers)."""
TOP_FRACTIONS = (0.0, 0.01, 0.05, 0.2)
"""Image scores by the models' rule: the mean of this share of the map's highest values, 0 for the maximum."""
NEIGHBOURHOODS = (1, 3)
"""PatchCore's patches: the paper's 3, and 1, as a location of a grid of stride 16 has seen its surroundings already."""
BATCH_SIZE = 64


@dataclass(frozen=True)
class BaselineResult:
    """One baseline under one of its settings."""

    name: str
    settings: Settings
    metrics: Metrics
    """Flat names as a model's, `val/...` and `test/...`."""


class Method(Protocol):
    """Anomaly detection from normal features of one class."""

    def fit(self, features_nChw: Tensor) -> None:
        """Learn from features of any floating type."""
        ...

    def predict(self, features_BChw: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Map (B, h, w) on the feature grid, and image scores (B,) that the method has of its own, by their names."""
        ...


METHODS: dict[BaselineName, list[tuple[Settings, Callable[[], Method]]]] = {
    "padim": [({}, Padim)],
    "patchcore": [
        ({"neighbourhood": side}, partial(PatchCore, neighbourhood=side)) for side in NEIGHBOURHOODS
    ],
}
"""Each baseline's settings but for the image score, and what makes it under them."""


def measure_baseline(
    name: BaselineName, data: PreparedData, *, device: str = "cpu", progress: Progress = silent
) -> list[BaselineResult]:
    """Fit and measure `name` class by class under each of its settings; a result for each of them.

    With `validation: {from: none}` the two splits are one, measured once and told under both names.
    """
    results: list[BaselineResult] = []
    class_names = data.context.class_names
    num_fits = len(METHODS[name]) * len(class_names)
    for i, (settings, make) in enumerate(METHODS[name]):
        found: dict[str, dict[str, dict[str, Metrics]]] = {}
        for class_index, class_name in enumerate(class_names):
            progress(f"measuring {name}", i * len(class_names) + class_index, num_fits)
            for score_name, split_name, metrics in _measure_class(make(), data, class_index, device):
                found.setdefault(score_name, {}).setdefault(split_name, {})[class_name] = metrics
        for score_name, splits in found.items():
            flat = {
                f"{split_name}/{metric}": value
                for split_name, per_class in splits.items()
                for metric, value in summarize(per_class).items()
            }
            results.append(BaselineResult(name, {**settings, "image_score": score_name}, flat))
    progress(f"measuring {name}", num_fits, num_fits)
    return results


def choose(
    results: Sequence[BaselineResult], metric: str, goal: Literal["maximize", "minimize"]
) -> BaselineResult:
    """The result that is best by `metric` and, of equals, by `val/image_auroc`; undefined is worse than anything."""

    def rank(result: BaselineResult) -> tuple[float, float]:
        values = result.metrics.get(metric), result.metrics.get("val/image_auroc")
        first, second = (-math.inf if value is None else value for value in values)
        return (-first if goal == "minimize" and values[0] is not None else first), second

    return max(results, key=rank)


def _measure_class(
    method: Method, data: PreparedData, class_index: int, device: str
) -> Iterator[tuple[str, str, Metrics]]:
    """Image score, split and all metrics of a class."""
    train = data.splits["train"]
    members = np.flatnonzero(train.class_index == class_index)
    method.fit(torch.from_numpy(train.features(members)).to(device))
    for split_name in ("test",) if data.selected_on_test else ("val", "test"):
        by_score = _measure(method, data.splits[split_name], class_index, data.context.image_size, device)
        for score_name, metrics in by_score.items():
            yield score_name, split_name, metrics
            if data.selected_on_test:
                yield score_name, "val", metrics


@torch.inference_mode()
def _measure(
    method: Method, split: Split, class_index: int, image_size: int, device: str
) -> dict[str, Metrics]:
    """All metrics of a class by each image score; the pixels' are the same for all of them. Empty without an image."""
    positions = np.flatnonzero(split.class_index == class_index)
    if not len(positions):
        return {}
    maps_nHW = np.empty((len(positions), image_size, image_size), np.float32)
    scores: dict[str, np.ndarray] = {}
    for start in range(0, len(positions), BATCH_SIZE):
        rows = slice(start, start + BATCH_SIZE)
        features_BChw = torch.from_numpy(split.features(positions[rows])).to(device)
        map_Bhw, own_scores = method.predict(features_BChw)
        maps_BHW = gaussian_smooth(upsample_map(map_Bhw, image_size), SMOOTHING_SIGMA)
        top_scores = {
            f"top {fraction:.0%}" if fraction else "maximum": pooled_score(maps_BHW, 1, fraction)
            for fraction in TOP_FRACTIONS
        }
        for score_name, score_B in (own_scores | top_scores).items():
            scores.setdefault(score_name, np.empty(len(positions), np.float32))[rows] = score_B.cpu().numpy()
        maps_nHW[rows] = maps_BHW.cpu().numpy()
    regions = MaskRegions.from_masks(split.masks(positions)) if split.has_mask[positions].all() else None
    of_pixels = pixel_metrics(maps_nHW, regions)
    labels_n = split.is_anomalous[positions]
    return {name: image_metrics(labels_n, scores_n) | of_pixels for name, scores_n in scores.items()}
