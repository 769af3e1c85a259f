"""Evaluation of a model on a split: class by class, classes dealt to the ranks, the same numbers on every rank.

Legend: n images of one class, A alternative maps, H x W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from hvqray.data.dataset import Split
from hvqray.metrics import (
    MAD,
    METRIC_NAMES,
    ROUTER_ACCURACY,
    MaskRegions,
    image_metrics,
    joint_metric,
    pixel_metrics,
    summarize,
)
from hvqray.metrics.histogram_file import HistogramWriter
from hvqray.models.context import ModelContext
from hvqray.models.interface import AnomalyModel, Prediction
from hvqray.training.batches import make_batch
from hvqray.training.code_tally import CodeTally
from hvqray.training.communicator import Communicator
from hvqray.training.rule_choice import (
    ChosenBy,
    ClassResult,
    Metrics,
    of_mixed_maps,
    with_best_maps,
    with_best_scores,
)

logger = logging.getLogger(__name__)

_REGIONS: WeakKeyDictionary[Split, dict[int, MaskRegions | None]] = WeakKeyDictionary()
"""By class index, those of every split that an evaluator is for or was, as long as the split is there: trials of one process share it."""


class Evaluator:
    """Evaluates models on one split. Keeps the regions of its masks, which no epoch and no trial changes.

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
        self._regions = _REGIONS.setdefault(split, {})
        self.scores_n = np.full(len(split), np.nan, dtype=np.float32)

    def evaluate(
        self, model: AnomalyModel, *, pixel_metrics: bool, choose_by: ChosenBy | None = None
    ) -> Metrics:
        """All metrics of `model`, equal on every rank and to those of a single rank.

        With `choose_by` a model that has several rules for the image score, or, with `pixel_metrics`, several maps, is given the best
        ones of each route on these very images, and measured with them.

        Flat names: `SPLIT/METRIC` (mean over the classes where defined), `SPLIT/METRIC.num_classes`,
        `SPLIT/CLASS/METRIC`, `SPLIT/CLASS/image_f1max.threshold`, `codebook/LEVEL/use`, `codebook/LEVEL/CLASS/use` and
        likewise `perplexity` and `perplexity_given_top`; `SPLIT/router_accuracy` and `SPLIT/CLASS/router_accuracy` where the model
        predicts classes.
        Without `pixel_metrics` those four are absent, and `mad` of the classes with masks and of the mean; where a metric is undefined it
        is None.
        """
        members = {c: positions for c, positions in self._split.by_class() if len(positions)}
        owners = deal({c: len(positions) for c, positions in members.items()}, self._communicator.world_size)
        chooses_maps = pixel_metrics and choose_by is not None and model.map_choice.num_rules > 1

        def gathered(wanted: Collection[int], *, every_map: bool) -> dict[int, ClassResult]:
            mine: dict[int, ClassResult] = {}
            with evaluating(model):
                for c in owners[self._communicator.rank]:
                    if c in wanted:
                        mine[c] = self._evaluate_class(
                            model, c, members[c], pixel_metrics=pixel_metrics, every_map=every_map
                        )
            parts = self._communicator.all_gather_object(mine)
            return dict(sorted((c, result) for part in parts for c, result in part.items()))

        results = gathered(members, every_map=chooses_maps)
        if choose_by is not None and chooses_maps:
            results = with_best_maps(model, results, choose_by.map_metrics)
        if choose_by is not None and model.image_score.num_rules > 1:
            labels = {c: self._split.is_anomalous[positions] for c, positions in members.items()}
            results = with_best_scores(model, results, labels, choose_by.score_metrics)
        if chooses_maps and (mixed := of_mixed_maps(model, results)):
            results |= gathered(mixed, every_map=False)
        for c, result in results.items():
            self.scores_n[members[c]] = result.scores_n
        per_class = {
            self._context.class_names[c]: result.metrics
            | joint_metric(result.metrics, has_masks=self._has_masks(members[c]))
            for c, result in results.items()
        }
        summary = summarize(per_class)
        if not np.isfinite(self.scores_n).all():
            # The class that a model breaks on, left out of its means, would make it look better.
            summary |= {name: None for name in (*METRIC_NAMES, MAD) if name in summary}
        flat = {f"{self._split.name}/{name}": value for name, value in summary.items()}
        codes = _tally(model)
        for result in results.values():
            codes.update(result.codes)
        return flat | codes.health(self._context.class_names)

    def _evaluate_class(
        self,
        model: AnomalyModel,
        class_index: int,
        positions: np.ndarray,
        *,
        pixel_metrics: bool,
        every_map: bool,
    ) -> ClassResult:
        """With pixel metrics of the map that the model has chosen, or by each of its maps."""
        labels_n = self._split.is_anomalous[positions]
        scores_n = np.empty(len(positions), dtype=np.float32)
        num_rules = model.image_score.num_rules
        candidates_nS = np.empty((len(positions), num_rules), dtype=np.float32) if num_rules > 1 else None
        route_n = np.zeros(len(positions), dtype=np.int64)
        num_maps = model.map_choice.num_rules if every_map else 1 if pixel_metrics else 0
        size = self._context.image_size
        maps_AnHW = np.empty((num_maps, len(positions), size, size), dtype=np.float32)
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
            candidates = prediction.candidates
            if candidates is not None:
                route_n[rows] = candidates.route_B.cpu().numpy()
            if candidates_nS is not None and candidates is not None and candidates.scores_BS is not None:
                candidates_nS[rows] = candidates.scores_BS.cpu().numpy()
            routed_B = np.full(len(scores_n[rows]), class_index)
            if prediction.routed_class_B is not None:
                routed_B = prediction.routed_class_B.cpu().numpy()
                num_routed_right = int((routed_B == class_index).sum()) + (num_routed_right or 0)
            has_codes_B = np.isfinite(scores_n[rows])  # codes of values that are not finite mean nothing
            if every_map and candidates is not None and candidates.maps_BAHW is not None:
                maps_AnHW[:, rows] = candidates.maps_BAHW.transpose(0, 1).cpu().numpy()
            elif pixel_metrics:
                maps_AnHW[0, rows] = prediction.maps_BHW.cpu().numpy()
            codes = {
                level: codes_BL.cpu().numpy()[has_codes_B] for level, codes_BL in prediction.codes.items()
            }
            tally.add(codes, np.full(has_codes_B.sum(), class_index), routed_B[has_codes_B])
        metrics = image_metrics(labels_n, scores_n)
        if num_routed_right is not None:
            metrics[ROUTER_ACCURACY] = num_routed_right / len(positions)
        map_metrics_A = [self._pixel_metrics(class_index, positions, maps_nHW) for maps_nHW in maps_AnHW]
        if len(map_metrics_A) == 1:
            metrics |= map_metrics_A[0]
        if not (np.isfinite(scores_n).all() and np.isfinite(maps_AnHW).all()):
            class_name = self._context.class_names[class_index]
            logger.warning(
                "%s/%s: scores or maps are not finite; metrics undefined", self._split.name, class_name
            )
        return ClassResult(metrics, tally, scores_n, candidates_nS, map_metrics_A, route_n)

    def _pixel_metrics(self, class_index: int, positions: np.ndarray, maps_nHW: np.ndarray) -> Metrics:
        if class_index not in self._regions:
            self._regions[class_index] = (
                MaskRegions.from_masks(self._split.masks(positions)) if self._has_masks(positions) else None
            )
        regions = self._regions[class_index]
        metrics = pixel_metrics(maps_nHW, regions)
        if self._histograms is not None:
            self._histograms.add_maps(self._context.class_names[class_index], maps_nHW, regions, metrics)
        return metrics

    def _has_masks(self, positions: np.ndarray) -> bool:
        return bool(self._split.has_mask[positions].all())


def _tally(model: AnomalyModel) -> CodeTally:
    return CodeTally(model.codebook_sizes(), model.codebooks_per_class)


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
