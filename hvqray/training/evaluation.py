"""Evaluation of a model on a split: class by class, classes dealt to the ranks, the same numbers on every rank.

Legend: n images of one class, H x W pixels.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hvqray.data.dataset import Split
from hvqray.metrics import (
    ROUTER_ACCURACY,
    MaskRegions,
    codebook_use,
    count_codes,
    image_metrics,
    pixel_metrics,
    summarize,
)
from hvqray.models.interface import AnomalyModel, ModelContext, Prediction
from hvqray.training.batches import make_batch
from hvqray.training.communicator import Communicator

logger = logging.getLogger(__name__)

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class ClassResult:
    """What one rank found out about one class."""

    metrics: Metrics
    code_counts: dict[int, dict[str, Counter[int]]]
    """Class and level to how often each code occurred. At levels where every class has codes of its own the class is the one
    whose codes they are, which a router that errs may have taken for this one; else it is this one."""
    scores_n: np.ndarray
    """Image scores, float32, in the order of the class's positions in the split."""


class Evaluator:
    """Evaluates models on one split. Keeps the regions of its masks, which no epoch changes.

    After an evaluation `scores_n` holds the image scores of all images of the split, float32, in its order.
    """

    def __init__(
        self,
        split: Split,
        context: ModelContext,
        communicator: Communicator,
        batch_size: int = 64,
        precision_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._split = split
        self._context = context
        self._communicator = communicator
        self._batch_size = batch_size
        self._precision_context = precision_context
        self._regions: dict[int, MaskRegions | None] = {}
        self.scores_n = np.full(len(split), np.nan, dtype=np.float32)

    def evaluate(self, model: AnomalyModel, *, pixel_metrics: bool) -> Metrics:
        """All metrics of `model`, equal on every rank and to those of a single rank.

        Flat names: `SPLIT/METRIC` (mean over the classes where defined), `SPLIT/METRIC.num_classes`,
        `SPLIT/CLASS/METRIC`, `SPLIT/CLASS/image_f1max.threshold`, `codebook/LEVEL/use`, `codebook/LEVEL/CLASS/use` and
        likewise `perplexity`; `SPLIT/router_accuracy` and `SPLIT/CLASS/router_accuracy` where the model predicts classes.
        Without `pixel_metrics` those four are absent; where a metric is undefined it is None.
        """
        members = {c: positions for c, positions in self._split.by_class() if len(positions)}
        owners = deal({c: len(positions) for c, positions in members.items()}, self._communicator.world_size)
        mine: dict[int, ClassResult] = {}
        with evaluating(model):
            for class_index in owners[self._communicator.rank]:
                mine[class_index] = self._evaluate_class(
                    model, class_index, members[class_index], pixel_metrics=pixel_metrics
                )
        results: dict[int, ClassResult] = {}
        for part in self._communicator.all_gather_object(mine):
            results |= part
        results = dict(sorted(results.items()))
        for c, result in results.items():
            self.scores_n[members[c]] = result.scores_n
        per_class = {self._context.class_names[c]: result.metrics for c, result in results.items()}
        flat = {f"{self._split.name}/{name}": value for name, value in summarize(per_class).items()}
        return flat | codebook_health(
            self._code_counts(results.values()),
            model.codebook_sizes(),
            per_class=model.codebooks_per_class,
        )

    def _code_counts(self, results: Iterable[ClassResult]) -> dict[str, dict[str, Counter[int]]]:
        """Class name and level to how often each code occurred."""
        names = self._context.class_names
        counts: dict[str, dict[str, Counter[int]]] = {name: {} for name in names}
        for result in results:
            for class_index, levels in result.code_counts.items():
                for level, count in levels.items():
                    counts[names[class_index]].setdefault(level, Counter()).update(count)
        return counts

    def _evaluate_class(
        self, model: AnomalyModel, class_index: int, positions: np.ndarray, *, pixel_metrics: bool
    ) -> ClassResult:
        labels_n = self._split.is_anomalous[positions]
        scores_n = np.empty(len(positions), dtype=np.float32)
        size = self._context.image_size if pixel_metrics else 0
        maps_nHW = np.empty((len(positions), size, size), dtype=np.float32)
        code_counts: dict[int, dict[str, Counter[int]]] = {}
        num_routed_right: int | None = None
        for rows, prediction in predictions(
            model,
            self._split,
            positions,
            batch_size=self._batch_size,
            device=self._communicator.device,
            precision_context=self._precision_context,
        ):
            scores_n[rows] = prediction.scores_B.cpu().numpy()
            routed_B = np.full(len(scores_n[rows]), class_index)
            if prediction.routed_class_B is not None:
                routed_B = prediction.routed_class_B.cpu().numpy()
                num_routed_right = int((routed_B == class_index).sum()) + (num_routed_right or 0)
            has_codes_B = np.isfinite(scores_n[rows])  # codes of values that are not finite mean nothing
            if pixel_metrics:
                maps_nHW[rows] = prediction.maps_BHW.cpu().numpy()
            for level, codes in prediction.codes.items():
                codes_Bn = codes.cpu().numpy()
                owner_B = (
                    routed_B if level in model.codebooks_per_class else np.full_like(routed_B, class_index)
                )
                for owner in np.unique(owner_B[has_codes_B]).tolist():
                    counted = count_codes(codes_Bn[has_codes_B & (owner_B == owner)])
                    code_counts.setdefault(owner, {}).setdefault(level, Counter()).update(counted)
        metrics = image_metrics(labels_n, scores_n)
        if num_routed_right is not None:
            metrics[ROUTER_ACCURACY] = num_routed_right / len(positions)
        if pixel_metrics:
            metrics |= self._pixel_metrics(class_index, positions, maps_nHW)
        if not (np.isfinite(scores_n).all() and np.isfinite(maps_nHW).all()):
            class_name = self._context.class_names[class_index]
            logger.warning(
                "%s/%s: scores or maps are not finite; metrics undefined", self._split.name, class_name
            )
        return ClassResult(metrics, code_counts, scores_n)

    def _pixel_metrics(self, class_index: int, positions: np.ndarray, maps_nHW: np.ndarray) -> Metrics:
        if class_index not in self._regions:
            has_masks = self._split.has_mask[positions].all()
            self._regions[class_index] = (
                MaskRegions.from_masks(self._split.masks(positions)) if has_masks else None
            )
        return pixel_metrics(maps_nHW, self._regions[class_index])


def predictions(
    model: AnomalyModel,
    split: Split,
    positions: np.ndarray,
    *,
    batch_size: int,
    device: torch.device | str,
    precision_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[tuple[slice, Prediction]]:
    """What `model` (in eval mode) says of the images at `positions` of `split`, in batches, each with its rows in `positions`."""
    for start in range(0, len(positions), batch_size):
        rows = slice(start, start + batch_size)
        batch = make_batch(split, positions[rows], device=device, images=model.needs_images)
        with precision_context():
            prediction = model.predict(batch)
        yield rows, prediction


@contextmanager
def evaluating(model: AnomalyModel) -> Iterator[None]:
    """Eval mode and no gradients inside; afterwards the mode that was."""
    was_training = model.training
    model.train(False)
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def deal(num_images: dict[int, int], world_size: int) -> list[list[int]]:
    """Classes per rank, balanced by images: each in turn, the largest first, to the rank with the fewest so far."""
    hands: list[list[int]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    for class_index in sorted(num_images, key=lambda c: (-num_images[c], c)):
        rank = loads.index(min(loads))
        hands[rank].append(class_index)
        loads[rank] += num_images[class_index]
    return hands


def codebook_health(
    counts_by_class: Mapping[str, Mapping[str, Counter[int]]],
    sizes: dict[str, int],
    *,
    per_class: Collection[str],
) -> Metrics:
    """`codebook/LEVEL/use` and `codebook/LEVEL/perplexity`; with `/CLASS` after LEVEL, of one class's images.

    A shared codebook is judged by the images of all classes; at levels where every class has its own (`per_class`), those with a
    class are of the images that were taken for that class, and those without one are means over the classes seen.
    """
    health: Metrics = {}
    for level, size in sizes.items():
        counts = {name: of_class[level] for name, of_class in counts_by_class.items() if of_class.get(level)}
        of_classes = {name: codebook_use(count, size) for name, count in counts.items()}
        judged = list(of_classes.values())
        if counts and level not in per_class:
            judged = [codebook_use(sum(counts.values(), Counter()), size)]
        health[f"codebook/{level}/use"] = _mean([use for use, _ in judged])
        health[f"codebook/{level}/perplexity"] = _mean([perplexity for _, perplexity in judged])
        for name, (use, perplexity) in of_classes.items():
            health[f"codebook/{level}/{name}/use"] = use
            health[f"codebook/{level}/{name}/perplexity"] = perplexity
    return health


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
