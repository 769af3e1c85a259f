"""What a baseline reaches on `val` and `test`: one model a class, on the models' features and by their metrics.

A baseline has few settings of its own. All of them are measured, so that one can be chosen on `val` as a sweep
chooses its configuration: for each class by itself, as each has a model of its own. Libraries of such methods (anomalib) bring data loading, a
training loop and metrics of their own, with which figures would not compare.

Legend: n images of one class, C feature channels, h x w feature grid, H x W image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from hvqray.baselines.padim import Padim
from hvqray.baselines.patchcore import PatchCore
from hvqray.config.metric_names import deciding_metrics, is_of_image_metrics
from hvqray.data.dataset import PreparedData, Split
from hvqray.data.progress import Progress, silent
from hvqray.metrics import (
    PIXEL_METRICS,
    MaskRegions,
    image_metrics,
    joint_metric,
    mean_metric,
    pixel_metrics,
    summarize,
)
from hvqray.metrics.histogram_file import HistogramWriter, writing_histograms
from hvqray.models.context import ModelContext
from hvqray.models.map_ops import coarse_side, top_means, upsample_map

BaselineName = Literal["padim", "patchcore"]
Metrics = dict[str, float | None]
Settings = dict[str, str | int]
MapSettings = tuple[int, str]
"""Smoothing and image score."""

SMOOTHING_SIGMAS = (4, 0)
"""Standard deviation of the Gaussian that smooths the maps, in pixels: both papers' 4, and none, as the models' maps may have."""
TOP_FRACTIONS = (0.0, 0.01, 0.05, 0.2)
"""Image scores by the models' rule: the mean of this share of the map's highest values, 0 for the maximum."""
BATCH_SIZE = 64


@dataclass(frozen=True)
class BaselineResult:
    """One baseline under one of its settings."""

    name: str
    settings: Settings
    metrics: Metrics
    """Flat names as a model's, `val/...` and `test/...`."""
    test_scores: dict[str, list[float | None]] = field(default_factory=dict)
    """Class name to the image scores of `test`, in the split's order; None where one is not finite."""
    test_labels: dict[str, list[bool]] = field(default_factory=dict)
    """Class name to whether each of these images has a defect."""
    test_pixels: Path | None = None
    """File of the histograms of these images' pixels."""

    @property
    def class_names(self) -> list[str]:
        """The classes that were measured on `val` or `test`."""
        parts = (name.split("/") for name in self.metrics)
        return list(dict.fromkeys(each[1] for each in parts if len(each) == 3))


@dataclass(frozen=True)
class ChosenBaseline:
    """A baseline's models, each class's under the setting that is best for it on `val`."""

    name: str
    settings: dict[str, Settings]
    """Class name to setting."""
    metrics: Metrics
    """Flat names as a model's, `val/...` and `test/...`."""
    test_scores: dict[str, list[float | None]] = field(default_factory=dict)
    test_labels: dict[str, list[bool]] = field(default_factory=dict)
    test_pixels: dict[str, Path] = field(default_factory=dict)
    """Class name to the file that has the histograms of its pixels."""


class Measured(NamedTuple):
    """What is measured of one class."""

    metrics: Metrics
    scores_n: np.ndarray
    is_anomalous_n: np.ndarray


class Method(Protocol):
    """Anomaly detection from normal features of one class."""

    def fit(self, features_nChw: Tensor) -> None:
        """Learn from features of any floating type."""
        ...

    def predict(self, features_BChw: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Map (B, h, w) on the feature grid, and image scores (B,) that the method has of its own, by their names."""
        ...


IMAGE_SCORE = "image_score"
"""The setting that leaves maps as they are."""
METHODS: dict[BaselineName, Callable[..., Method]] = {"padim": Padim, "patchcore": PatchCore}
"""Each is made with a `neighbourhood`."""


def measure_baseline(
    name: BaselineName,
    data: PreparedData,
    *,
    pixels_folder: Path,
    device: str = "cpu",
    progress: Progress = silent,
) -> list[BaselineResult]:
    """Fit and measure `name` class by class under each of its settings; a result for each of them.

    Histograms of the pixels of `test` are written into `pixels_folder`, a file for each of those settings that make maps.

    With `validation: {from: none}` the two splits are one, measured once and told under both names.
    """
    results: list[BaselineResult] = []
    class_names = data.context.class_names
    # The 3 of PatchCore's paper; 1, as a location has seen its surroundings already; and as far as the models see coarsely.
    neighbourhoods = sorted({1, 3, coarse_side(data.context.grid_stride, data.context.grid_size[0])})
    num_fits = len(neighbourhoods) * len(class_names)
    for i, side in enumerate(neighbourhoods):
        found: dict[MapSettings, dict[str, dict[str, Measured]]] = {}
        files = {sigma: pixels_folder / f"{name}-{side}-{sigma}.npz" for sigma in SMOOTHING_SIGMAS}
        with ExitStack() as stack:
            writers = {sigma: stack.enter_context(writing_histograms(path)) for sigma, path in files.items()}
            for class_index, class_name in enumerate(class_names):
                progress(f"measuring {name}", i * len(class_names) + class_index, num_fits)
                method = METHODS[name](neighbourhood=side)
                for settings, split_name, measured in _measure_class(
                    method, data, class_index, writers, device
                ):
                    found.setdefault(settings, {}).setdefault(split_name, {})[class_name] = measured
        for (sigma, score_name), splits in found.items():
            flat = {
                f"{split_name}/{metric}": value
                for split_name, per_class in splits.items()
                for metric, value in summarize({c: each.metrics for c, each in per_class.items()}).items()
            }
            tested = splits.get("test", {})
            scores = {
                class_name: [score if math.isfinite(score) else None for score in each.scores_n.tolist()]
                for class_name, each in tested.items()
            }
            chosen: Settings = {"neighbourhood": side, "smoothing": sigma, IMAGE_SCORE: score_name}
            labels = {class_name: each.is_anomalous_n.tolist() for class_name, each in tested.items()}
            results.append(BaselineResult(name, chosen, flat, scores, labels, files[sigma]))
    progress(f"measuring {name}", num_fits, num_fits)
    return results


def choose(
    results: Sequence[BaselineResult], metric: str, goal: Literal["maximize", "minimize"]
) -> ChosenBaseline:
    """Of each class the settings that are best by its own part of `metric`, since it has a model of its own.

    Maps and image scores are chosen apart and by the same metrics as the models' are (`deciding_metrics`). Of
    equals the one with the class's best `val/CLASS/image_auroc`, then with the best mean of the metric over the classes; undefined is
    worse than anything.
    """
    split_name, wanted = metric.partition("/")[0], metric.rpartition("/")[2]

    def best_of(class_name: str, deciding: Sequence[str]) -> BaselineResult:
        def rank(result: BaselineResult) -> tuple[float, ...]:
            def mean(prefix: str) -> float | None:
                return mean_metric(result.metrics, [f"{prefix}/{name}" for name in deciding])

            sign = -1 if goal == "minimize" and wanted in deciding else 1
            values = (
                (mean(f"{split_name}/{class_name}"), sign),
                (result.metrics.get(f"val/{class_name}/image_auroc"), 1),
                (mean(split_name), sign),
            )
            return tuple(-math.inf if value is None else sign * value for value, sign in values)

        return max(results, key=rank)

    names = results[0].class_names
    of_score, of_map = deciding_metrics(metric)
    scored = {name: best_of(name, of_score) for name in names}
    mapped = {name: best_of(name, of_map) for name in names}
    flat: Metrics = {}
    for split_name in ("val", "test"):
        per_class = {
            name: own
            for name in names
            if (own := _of_class(scored[name], mapped[name], f"{split_name}/{name}/"))
        }
        flat |= {f"{split_name}/{name}": value for name, value in summarize(per_class).items()}
    tested = [name for name in names if name in scored[name].test_scores]
    return ChosenBaseline(
        name=results[0].name,
        settings={
            name: scored[name].settings
            | {f"map_{key}": value for key, value in mapped[name].settings.items() if key != IMAGE_SCORE}
            for name in names
        },
        metrics=flat,
        test_scores={name: scored[name].test_scores[name] for name in tested},
        test_labels={name: scored[name].test_labels[name] for name in tested},
        test_pixels={name: path for name in tested if (path := mapped[name].test_pixels)},
    )


def _of_class(scored: BaselineResult, mapped: BaselineResult, prefix: str) -> Metrics:
    """Pixel metrics of `mapped`, all else of `scored`, and their mean anew."""
    of_scored = {
        name.removeprefix(prefix): value for name, value in scored.metrics.items() if name.startswith(prefix)
    }
    own = of_scored | {
        name: mapped.metrics.get(f"{prefix}{name}") for name in PIXEL_METRICS if name in of_scored
    }
    return own | joint_metric(own, has_masks=not is_of_image_metrics(of_scored))


def _measure_class(
    method: Method, data: PreparedData, class_index: int, writers: Mapping[int, HistogramWriter], device: str
) -> Iterator[tuple[MapSettings, str, Measured]]:
    """Smoothing and image score, split, and what is measured of a class."""
    train = data.splits["train"]
    members = np.flatnonzero(train.class_index == class_index)
    method.fit(torch.from_numpy(train.features(members)).to(device))
    for split_name in ("test",) if data.selected_on_test else ("val", "test"):
        split = data.splits[split_name]
        of_split = writers if split_name == "test" else {}
        for settings, measured in _measure(
            method, split, data.context, class_index, of_split, device
        ).items():
            yield settings, split_name, measured
            if data.selected_on_test:
                yield settings, "val", measured


@torch.inference_mode()
def _measure(
    method: Method,
    split: Split,
    context: ModelContext,
    class_index: int,
    writers: Mapping[int, HistogramWriter],
    device: str,
) -> dict[MapSettings, Measured]:
    """All metrics of a class by each smoothing and image score; the pixels' are the same for all scores. Empty without an image.

    The pixels' histograms go to the writer of the smoothing, where there is one.
    """
    size, at_centres = context.image_size, context.grid_of_patches
    positions = np.flatnonzero(split.class_index == class_index)
    if not len(positions):
        return {}
    maps: list[Tensor] = []
    own_scores: dict[str, list[Tensor]] = {}
    for start in range(0, len(positions), BATCH_SIZE):
        rows = positions[start : start + BATCH_SIZE]
        map_Bhw, scores = method.predict(torch.from_numpy(split.features(rows)).to(device))
        maps.append(map_Bhw)
        for score_name, score_B in scores.items():
            own_scores.setdefault(score_name, []).append(score_B)
    regions = MaskRegions.from_masks(split.masks(positions)) if split.has_mask[positions].all() else None
    labels_n = split.is_anomalous[positions]
    found: dict[MapSettings, Measured] = {}
    for sigma in SMOOTHING_SIGMAS:
        maps_nHW = np.empty((len(positions), size, size), np.float32)
        all_scores = dict(own_scores)
        for start, map_Bhw in zip(range(0, len(positions), BATCH_SIZE), maps, strict=True):
            maps_BHW = upsample_map(map_Bhw, size, at_centres=at_centres, smoothing_sigma=sigma)
            maps_nHW[start : start + BATCH_SIZE] = maps_BHW.cpu().numpy()
            scores_SB = top_means(maps_BHW, TOP_FRACTIONS).mT
            for fraction, score_B in zip(TOP_FRACTIONS, scores_SB, strict=True):
                score_name = f"top {fraction:.0%}" if fraction else "maximum"
                all_scores.setdefault(score_name, []).append(score_B)
        of_pixels = pixel_metrics(maps_nHW, regions)
        if sigma in writers:
            writers[sigma].add_maps(context.class_names[class_index], maps_nHW, regions, of_pixels)
        for score_name, parts in all_scores.items():
            scores_n = torch.cat(parts).float().cpu().numpy()
            metrics = image_metrics(labels_n, scores_n) | of_pixels
            metrics |= joint_metric(metrics, has_masks=regions is not None)
            found[sigma, score_name] = Measured(metrics, scores_n, labels_n)
    return found
