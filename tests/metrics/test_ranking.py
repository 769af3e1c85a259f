"""Ranking metrics equal scikit-learn's, ties included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from hvqray.metrics.ranking import auroc, average_precision, f1_max, rank_scores


@st.composite
def labels_and_scores(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Both labels at least once; few distinct scores, so that ties abound."""
    size = draw(st.integers(2, 40))
    labels = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    labels[:2] = [True, False]
    num_values = draw(st.integers(1, 12))
    scores = draw(st.lists(st.integers(-num_values, num_values), min_size=size, max_size=size))
    return labels, np.array(scores, dtype=np.float32) / 4


def reference_f1_max(labels: np.ndarray, scores: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(labels, scores)
    with np.errstate(invalid="ignore"):
        f1 = 2 * precision * recall / (precision + recall)
    return float(np.nanmax(f1))


@settings(max_examples=200, deadline=None)
@given(labels_and_scores())
def test_equals_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = case
    ranking = rank_scores(scores, labels)
    assert ranking is not None
    assert auroc(ranking) == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert average_precision(ranking) == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
    assert f1_max(ranking)[0] == pytest.approx(reference_f1_max(labels, scores), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(labels_and_scores())
def test_f1_threshold_reaches_its_f1_and_is_the_highest_that_does(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    labels, scores = case
    ranking = rank_scores(scores, labels)
    assert ranking is not None
    best, threshold = f1_max(ranking)
    f1 = {t: 2 * (labels & (scores >= t)).sum() / (labels.sum() + (scores >= t).sum()) for t in scores}
    assert f1[threshold] == pytest.approx(best)
    assert all(value < best - 1e-12 for t, value in f1.items() if t > threshold)


def test_equals_scikit_learn_on_many_float32_scores() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(200_000) < 0.03
    scores = (rng.normal(size=200_000) + labels).astype(np.float32)
    ranking = rank_scores(scores, labels)
    assert ranking is not None
    assert auroc(ranking) == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert average_precision(ranking) == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
    assert f1_max(ranking)[0] == pytest.approx(reference_f1_max(labels, scores), abs=1e-9)


def test_worse_than_chance_is_not_flipped() -> None:
    ranking = rank_scores(np.array([3.0, 2.0, 1.0, 0.0]), np.array([False, False, True, True]))
    assert ranking is not None
    assert auroc(ranking) == 0.0


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([], []),
        ([1.0, 2.0], [True, True]),
        ([1.0, 2.0], [False, False]),
        ([1.0, np.nan], [True, False]),
        ([np.inf, 1.0], [True, False]),
    ],
)
def test_undefined_is_none(scores: list[float], labels: list[bool]) -> None:
    assert rank_scores(np.array(scores, dtype=np.float32), np.array(labels, dtype=bool)) is None


def test_leaves_the_scores_as_they_are() -> None:
    scores = np.array([3.0, 1.0, 2.0], dtype=np.float32)
    rank_scores(scores, np.array([True, False, False]))
    np.testing.assert_array_equal(scores, [3, 1, 2])
