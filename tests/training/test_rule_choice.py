"""Each route gets the map that is best for its classes, also where images stray to other routes, and on several ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from evaluation_doubles import CLASS_NAMES, CONTEXT, FeatureNormModel, ThreadRank, make_split, on_ranks

from hvqray.data.dataset import Split
from hvqray.metrics import IMAGE_METRICS, PIXEL_METRICS, image_metrics
from hvqray.training.code_tally import CodeTally
from hvqray.training.communicator import SingleProcess
from hvqray.training.evaluation import Evaluator
from hvqray.training.rule_choice import (
    ChosenBy,
    ClassResult,
    Metrics,
    best_rules,
    with_best_maps,
    with_best_scores,
)

NUM_MAPS = 3


def uneven_split() -> Split:
    """Each class's defects show in other channels."""
    split = make_split(((9, 8), (7, 9), (8, 8)))
    features = split.all_features
    for c in range(3):
        rows = split.rows[(split.class_index == c) & split.is_anomalous]
        features[rows, c] *= 2
        features[rows, :c] *= np.float16(0.2)
    return split


def with_map(split: Split, number: int) -> Metrics:
    """Where all classes have this map."""
    model = FeatureNormModel(num_maps=NUM_MAPS, num_routes=3)
    model.map_choice.choose([number] * 3)
    return Evaluator(split, CONTEXT, SingleProcess()).evaluate(model, pixel_metrics=True)


def evaluated(split: Split, world_size: int, **model: Any) -> list[tuple[FeatureNormModel, Metrics]]:
    def evaluate(rank: ThreadRank) -> tuple[FeatureNormModel, Metrics]:
        one = FeatureNormModel(num_maps=NUM_MAPS, num_routes=3, **model)
        evaluator = Evaluator(split, CONTEXT, rank)
        return one, evaluator.evaluate(one, pixel_metrics=True, choose_by=ChosenBy())

    return on_ranks(world_size, evaluate)


@pytest.mark.parametrize("world_size", [1, 2])
def test_each_class_gets_the_map_that_is_best_for_it(world_size: int) -> None:
    split = uneven_split()
    by_map = [with_map(split, number) for number in range(NUM_MAPS)]
    best = {
        name: int(np.argmax([metrics[f"val/{name}/pixel_aupro"] for metrics in by_map]))  # type: ignore[arg-type]
        for name in CLASS_NAMES
    }
    assert len({*best.values()}) > 1, "no single map is best for all"
    for model, metrics in evaluated(split, world_size):
        assert model.map_choice.chosen_R.tolist() == list(best.values())
        for name, number in best.items():
            for metric in PIXEL_METRICS:
                assert metrics[f"val/{name}/{metric}"] == by_map[number][f"val/{name}/{metric}"]
        # What was chosen stays, and is what counts where there is no choice to make, as on test.
        again = Evaluator(split, CONTEXT, SingleProcess())
        assert again.evaluate(model, pixel_metrics=True) == metrics


def class_result(maps: Sequence[Sequence[float]], candidates_nS: np.ndarray | None = None) -> ClassResult:
    """Of images of route 0, with the pixel metrics of each map, and the scores by each rule."""
    metrics = [dict(zip(PIXEL_METRICS, values, strict=True)) for values in maps]
    num_images = 1 if candidates_nS is None else len(candidates_nS)
    scores_n, route_n = np.zeros(num_images, np.float32), np.zeros(num_images, np.int64)
    return ClassResult({}, CodeTally({}, frozenset()), scores_n, candidates_nS, [*metrics], route_n)


def test_a_map_is_chosen_by_the_mean_of_what_decides() -> None:
    """AUPRO speaks for the first, the mean of all for the second, which pixel AUROC alone does not."""
    result = class_result([[0.9, 0.1, 0.1, 0.8], [0.8, 0.4, 0.4, 0.7]])
    for metrics, expected in ((PIXEL_METRICS, 1), (("pixel_aupro",), 0), (("pixel_auroc",), 0)):
        model = FeatureNormModel(num_maps=2)
        chosen = with_best_maps(model, {0: result}, metrics)
        assert model.map_choice.chosen_R.tolist() == [expected]
        assert chosen[0].metrics == result.map_metrics_A[expected]


def test_a_score_is_chosen_by_the_mean_of_what_decides() -> None:
    """Both rules have the same AUROC; by the second the highest image is a defective one."""
    labels = {0: np.array([True, True, True, False, False, False])}
    candidates_nS = np.array([[5, 9], [4, 8], [3, 1], [6, 4], [0, 3], [0, 2]], np.float32)
    result = class_result([], candidates_nS)
    by_rule = [image_metrics(labels[0], scores_n) for scores_n in candidates_nS.T]
    means = [np.mean([found[name] for name in IMAGE_METRICS]) for found in by_rule]  # type: ignore[arg-type]
    assert (means[1] > means[0], by_rule[1]["image_auroc"] == by_rule[0]["image_auroc"]) == (True, True)
    for metrics, expected in ((IMAGE_METRICS, 1), (("image_auroc",), 0)):
        model = FeatureNormModel(shares=(0.0, 0.5))
        chosen = with_best_scores(model, {0: result}, labels, metrics)
        assert model.image_score.chosen_R.tolist() == [expected]
        assert chosen[0].metrics == by_rule[expected]


@pytest.mark.parametrize("world_size", [1, 2])
def test_images_that_stray_have_the_map_of_the_route_that_they_take(world_size: int) -> None:
    split = uneven_split()
    for model, metrics in evaluated(split, world_size, stray=True):
        assert len({*model.map_choice.chosen_R.tolist()}) > 1
        assert Evaluator(split, CONTEXT, SingleProcess()).evaluate(model, pixel_metrics=True) == metrics


@pytest.mark.parametrize("stray", [False, True])
def test_images_have_the_score_of_the_route_that_they_take(stray: bool) -> None:
    """The metrics and the scores that are told with the choice are those that the model gives from then on."""
    split = make_split(((9, 8), (7, 9), (8, 8)))
    model = FeatureNormModel(shares=(0.0, 0.1, 0.9), num_routes=3, stray=stray)
    at_first, later = (Evaluator(split, CONTEXT, SingleProcess()) for _ in range(2))
    metrics = at_first.evaluate(model, pixel_metrics=False, choose_by=ChosenBy())
    assert len({*model.image_score.chosen_R.tolist()}) > 1
    assert later.evaluate(model, pixel_metrics=False) == metrics
    assert np.array_equal(later.scores_n, at_first.scores_n)


def test_maps_are_chosen_where_they_are_measured_alone() -> None:
    model = FeatureNormModel(num_maps=NUM_MAPS, num_routes=3)
    model.map_choice.choose([2, 1, 2])
    told = Evaluator(uneven_split(), CONTEXT, SingleProcess()).evaluate(
        model, pixel_metrics=False, choose_by=ChosenBy()
    )
    assert not [name for name in told if "pixel" in name]
    assert model.map_choice.chosen_R.tolist() == [2, 1, 2]


def test_without_masks_the_first_map_stays() -> None:
    split = make_split(((4, 4),), unmasked=(0,))
    model = FeatureNormModel(num_maps=NUM_MAPS, num_routes=3)
    metrics = Evaluator(split, CONTEXT, SingleProcess()).evaluate(
        model, pixel_metrics=True, choose_by=ChosenBy()
    )
    assert model.map_choice.chosen_R.tolist() == [0, 0, 0]
    assert metrics["val/pixel_aupro"] is None


def test_where_a_class_decides_nothing_the_mean_over_the_others_does() -> None:
    values: dict[int, list[float | None]] = {0: [0.5, 0.9, 0.8], 1: [None, None, None], 2: [1.0, 0.7, 1.0]}
    # Means of the defined: .75, .8, .9.
    assert best_rules(values, num_routes=3) == [1, 2, 2]
    assert best_rules(values, num_routes=1) == [2]
    assert best_rules({0: [None, None]}, num_routes=2) == [0, 0]
    assert best_rules({1: [0.5, 0.6]}, num_routes=3) == [1, 1, 1], "of no image of class 0 and 2 neither"


def test_one_route_has_the_rule_of_the_best_mean_and_of_equal_rules_the_first() -> None:
    # Means .6, .55, of which the second has the higher minimum.
    assert best_rules({0: [1.0, 0.5], 1: [0.2, 0.6]}, num_routes=1) == [0]
    equal: dict[int, list[float | None]] = {0: [0.4, 0.5, 0.5], 1: [0.4, 0.5, 0.5]}
    assert best_rules(equal, num_routes=1) == [1]
    assert best_rules(equal, num_routes=2) == [1, 1]
