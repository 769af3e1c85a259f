"""Evaluation of a model on a split: class by class, classes dealt to the ranks, the same numbers on every rank.

Legend: n images of one class, H x W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hvqray.data.dataset import Split
from hvqray.metrics import (
    ROUTER_ACCURACY,
    MaskRegions,
    image_metrics,
    pixel_metrics,
    summarize,
)
from hvqray.metrics.histogram_file import HistogramWriter
from hvqray.models.interface import AnomalyModel, ModelContext, Prediction
from hvqray.training.batches import make_batch
from hvqray.training.code_tally import CodeTally
from hvqray.training.communicator import Communicator

logger = logging.getLogger(__name__)

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class ClassResult:
    """What one rank found out about one class."""

    metrics: Metrics
    codes: CodeTally
    scores_n: np.ndarray
    """Image scores, float32, in the order of the class's positions in the split."""
    candidates_nS: np.ndarray | None
    """By each of several rules, float32, where there is a choice."""
    route_n: np.ndarray
    """What the rule is chosen for; all 0 where there is no choice."""


class Evaluator:
    """Evaluates models on one split. Keeps the regions of its masks, which no epoch changes.

    With `histograms` it adds those of each class's pixels while the class's maps are there. After an evaluation `scores_n` holds the image scores of all images of the split, float32, in its order.
    """

    def __init__(
        self,
        split: Split,
        context: ModelContext,
        communicator: Communicator,
        batch_size: int = 64,
        precision_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        histograms: HistogramWriter | None = None,
    ) -> None:
        self._split = split
        self._context = context
        self._communicator = communicator
        self._batch_size = batch_size
        self._precision_context = precision_context
        self._histograms = histograms
        self._regions: dict[int, MaskRegions | None] = {}
        self.scores_n = np.full(len(split), np.nan, dtype=np.float32)

    def evaluate(
        self, model: AnomalyModel, *, pixel_metrics: bool, choose_scores_by: str | None = None
    ) -> Metrics:
        """All metrics of `model`, equal on every rank and to those of a single rank.

        With `choose_scores_by`, one of the image metrics, a model that has several rules for the image score is first given the
        best one of each route on these very images.

        Flat names: `SPLIT/METRIC` (mean over the classes where defined), `SPLIT/METRIC.num_classes`,
        `SPLIT/CLASS/METRIC`, `SPLIT/CLASS/image_f1max.threshold`, `codebook/LEVEL/use`, `codebook/LEVEL/CLASS/use` and
        likewise `perplexity` and `perplexity_given_top`; `SPLIT/router_accuracy` and `SPLIT/CLASS/router_accuracy` where the model
        predicts classes.
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
        if choose_scores_by is not None and len(model.image_score.fractions) > 1:
            results = self._with_best_rules(model, results, members, choose_scores_by)
        for c, result in results.items():
            self.scores_n[members[c]] = result.scores_n
        per_class = {self._context.class_names[c]: result.metrics for c, result in results.items()}
        flat = {f"{self._split.name}/{name}": value for name, value in summarize(per_class).items()}
        codes = _tally(model)
        for result in results.values():
            codes.update(result.codes)
        return flat | codes.health(self._context.class_names)

    def _with_best_rules(
        self,
        model: AnomalyModel,
        results: dict[int, ClassResult],
        members: Mapping[int, np.ndarray],
        metric: str,
    ) -> dict[int, ClassResult]:
        """Have the model take the best rule of each route, and the results tell of that."""
        num_routes = len(model.image_score.chosen_R)
        values_S: dict[int, list[float | None]] = {}
        for c, result in results.items():
            assert result.candidates_nS is not None
            labels_n = self._split.is_anomalous[members[c]]
            values_S[c] = [image_metrics(labels_n, scores_n)[metric] for scores_n in result.candidates_nS.T]
        rule_R = best_rules(values_S, num_routes=num_routes)
        model.image_score.choose(rule_R)
        chosen = {}
        for c, result in results.items():
            assert result.candidates_nS is not None
            rule_n = np.array(rule_R)[result.route_n]
            scores_n = np.take_along_axis(result.candidates_nS, rule_n[:, None], axis=1)[:, 0]
            metrics = result.metrics | image_metrics(self._split.is_anomalous[members[c]], scores_n)
            chosen[c] = replace(result, metrics=metrics, scores_n=scores_n)
        return chosen

    def _evaluate_class(
        self, model: AnomalyModel, class_index: int, positions: np.ndarray, *, pixel_metrics: bool
    ) -> ClassResult:
        labels_n = self._split.is_anomalous[positions]
        scores_n = np.empty(len(positions), dtype=np.float32)
        num_rules = len(model.image_score.fractions)
        candidates_nS = np.empty((len(positions), num_rules), dtype=np.float32) if num_rules > 1 else None
        route_n = np.zeros(len(positions), dtype=np.int64)
        size = self._context.image_size if pixel_metrics else 0
        maps_nHW = np.empty((len(positions), size, size), dtype=np.float32)
        tally = _tally(model)
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
            if candidates_nS is not None and prediction.candidates is not None:
                candidates_nS[rows] = prediction.candidates.scores_BS.cpu().numpy()
                route_n[rows] = prediction.candidates.route_B.cpu().numpy()
            routed_B = np.full(len(scores_n[rows]), class_index)
            if prediction.routed_class_B is not None:
                routed_B = prediction.routed_class_B.cpu().numpy()
                num_routed_right = int((routed_B == class_index).sum()) + (num_routed_right or 0)
            has_codes_B = np.isfinite(scores_n[rows])  # codes of values that are not finite mean nothing
            if pixel_metrics:
                maps_nHW[rows] = prediction.maps_BHW.cpu().numpy()
            codes = {
                level: codes_BL.cpu().numpy()[has_codes_B] for level, codes_BL in prediction.codes.items()
            }
            tally.add(codes, np.full(has_codes_B.sum(), class_index), routed_B[has_codes_B])
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
        return ClassResult(metrics, tally, scores_n, candidates_nS, route_n)

    def _pixel_metrics(self, class_index: int, positions: np.ndarray, maps_nHW: np.ndarray) -> Metrics:
        if class_index not in self._regions:
            has_masks = self._split.has_mask[positions].all()
            self._regions[class_index] = (
                MaskRegions.from_masks(self._split.masks(positions)) if has_masks else None
            )
        regions = self._regions[class_index]
        metrics = pixel_metrics(maps_nHW, regions)
        if self._histograms is not None:
            self._histograms.add_maps(self._context.class_names[class_index], maps_nHW, regions, metrics)
        return metrics


def _tally(model: AnomalyModel) -> CodeTally:
    return CodeTally(model.codebook_sizes(), model.codebooks_per_class)


def best_rules(values_S: Mapping[int, Sequence[float | None]], *, num_routes: int) -> list[int]:
    """The number of the best rule of each route, of classes' metrics by every rule.

    Where there is a route a class, the best of the class; of equals, where the metric is undefined for the class, and where there is
    one route for all, the best of the mean over the classes; the first where that decides nothing either.
    """
    defined = {c: values for c, values in values_S.items() if None not in values}
    if not defined:
        return [0] * num_routes
    mean_S = np.mean([np.array(values, dtype=float) for values in defined.values()], axis=0)
    rules = range(len(mean_S))
    of_all = max(rules, key=lambda rule: mean_S[rule])
    if num_routes == 1:
        return [of_all]
    return [
        max(rules, key=lambda rule: (defined[c][rule], mean_S[rule])) if c in defined else of_all
        for c in range(num_routes)
    ]


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
