"""Which image score and which map each route (class) of a model has: those that are best on `val`.

Legend: n images of one class, S rules for the image score, A alternative maps, R routes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hvqray.metrics import image_metrics, mean_metric
from hvqray.models.interface import AnomalyModel
from hvqray.training.code_tally import CodeTally

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class ChosenBy:
    """The metrics whose means decide."""

    score_metrics: tuple[str, ...] = ("image_auroc",)
    map_metrics: tuple[str, ...] = ("pixel_aupro",)


@dataclass(frozen=True)
class ClassResult:
    """What one rank found out about one class."""

    metrics: Metrics
    codes: CodeTally
    scores_n: np.ndarray
    """Image scores, float32, in the order of the class's positions in the split."""
    candidates_nS: np.ndarray | None
    """By each of several rules, float32, where there is a choice."""
    map_metrics_A: list[Metrics]
    """Pixel metrics by each of the maps that were measured."""
    route_n: np.ndarray
    """What rule and map are chosen for; all 0 where there is no choice."""


def with_best_maps(
    model: AnomalyModel, results: Mapping[int, ClassResult], metrics: Sequence[str]
) -> dict[int, ClassResult]:
    """Have the model take the best map of each route, and the results tell the pixel metrics of that.

    They are wrong for `of_mixed_maps`, whose images have no single one of the alternatives.
    """
    values_A = {
        c: [mean_metric(found, metrics) for found in result.map_metrics_A] for c, result in results.items()
    }
    map_R = best_rules(values_A, num_routes=len(model.map_choice.chosen_R))
    model.map_choice.choose(map_R)
    chosen = {}
    for c, result in results.items():
        found = result.map_metrics_A[map_R[result.route_n[0]]]
        chosen[c] = replace(result, metrics=result.metrics | found)
    return chosen


def of_mixed_maps(model: AnomalyModel, results: Mapping[int, ClassResult]) -> list[int]:
    """The classes whose images take routes of different maps."""
    chosen_R = model.map_choice.chosen_R.cpu().numpy()
    return [c for c, result in results.items() if len(np.unique(chosen_R[result.route_n])) > 1]


def with_best_scores(
    model: AnomalyModel,
    results: Mapping[int, ClassResult],
    labels: Mapping[int, np.ndarray],
    metrics: Sequence[str],
) -> dict[int, ClassResult]:
    """Have the model take the best rule of each route, and the results tell of that; `labels` are those of the classes' images."""
    values_S: dict[int, list[float | None]] = {}
    for c, result in results.items():
        assert result.candidates_nS is not None
        values_S[c] = [
            mean_metric(image_metrics(labels[c], scores_n), metrics) for scores_n in result.candidates_nS.T
        ]
    rule_R = best_rules(values_S, num_routes=len(model.image_score.chosen_R))
    model.image_score.choose(rule_R)
    chosen = {}
    for c, result in results.items():
        assert result.candidates_nS is not None
        rule_n = np.array(rule_R)[result.route_n]
        scores_n = np.take_along_axis(result.candidates_nS, rule_n[:, None], axis=1)[:, 0]
        chosen[c] = replace(
            result, metrics=result.metrics | image_metrics(labels[c], scores_n), scores_n=scores_n
        )
    return chosen


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
