"""Replicates against scikit-learn on the images that each resample holds, one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from hvqray.metrics import IMAGE_METRICS, image_metrics
from hvqray.metrics.bootstrap import (
    bootknife,
    resample_images,
    resampled_image_metrics,
    weighted_image_metrics,
)


def drawn(num_normal: int = 9, num_anomalous: int = 6, *, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    labels = np.array([False] * num_normal + [True] * num_anomalous)[
        rng.permutation(num_normal + num_anomalous)
    ]
    scores = (rng.normal(size=len(labels)) + labels).astype(np.float32)
    return labels, np.round(scores).astype(np.float32) if ties else scores


@pytest.mark.parametrize("ties", [False, True])
def test_replicates_are_the_metrics_of_the_resampled_images(ties: bool) -> None:
    labels, scores = drawn(ties=ties)
    resamples = resample_images(labels, num_resamples=50, rng=np.random.default_rng(0))
    found = resampled_image_metrics(resamples, scores)
    assert found is not None
    assert set(found) == set(IMAGE_METRICS)
    # Images of the other label that are drawn for the one more count where they are at or beyond the median: at it half.
    median = {label: np.median(scores[labels == label]) for label in (True, False)}
    beyond = np.array(
        [np.sign(median[y] - s) * (1 if y else -1) for y, s in zip(labels, scores, strict=True)]
    )
    y, s = np.concatenate([labels, ~labels]), np.concatenate([scores, scores])
    expected = []
    for counts, one_more in zip(resamples.counts_Rn, resamples.one_more_Rn, strict=True):
        weights = np.concatenate([counts, one_more * (1 + beyond) / 2])
        precision, recall, _ = precision_recall_curve(y, s, sample_weight=weights)
        f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-300)).max()
        auroc, ap = (f(y, s, sample_weight=weights) for f in (roc_auc_score, average_precision_score))
        expected.append((auroc, ap, f1))
    of_all = image_metrics(labels, scores)
    for name, expected_R in zip(IMAGE_METRICS, np.transpose(expected), strict=True):
        centred_R = of_all[name] + expected_R - expected_R.mean()
        assert found[name].values_R == pytest.approx(centred_R, abs=1e-12)
        assert centred_R.std() > 0.01


def test_weights_of_one_give_the_metrics_themselves() -> None:
    labels, scores = drawn(ties=True)
    found = weighted_image_metrics(labels[None], ~labels[None], scores)
    expected = image_metrics(labels, scores)
    assert {name: values_R[0] for name, values_R in found.items()} == pytest.approx(
        {name: expected[name] for name in IMAGE_METRICS}, abs=1e-12
    )


def test_each_label_has_an_image_more_that_is_one_of_the_other_label() -> None:
    labels, _ = drawn(ties=False)
    weights = resample_images(labels, num_resamples=4000, rng=np.random.default_rng(0)).one_more_Rn
    for label in (True, False):
        of_label = weights[:, labels != label]
        assert ((of_label > 0).sum(axis=1) == 1).all()
        assert (of_label > 0).mean(axis=0) == pytest.approx(1 / of_label.shape[1], abs=0.03)
        drawn_weights = of_label.sum(axis=1)
        assert [drawn_weights.mean(), drawn_weights.std()] == pytest.approx([1, 1], abs=0.07), "as Exp(1) has"


def test_of_groups_there_is_a_group_more() -> None:
    """Four normal groups of three images are told by twelve images, and two anomalous ones of two and of four by six as by 36 / 20 groups."""
    labels = np.array([False] * 12 + [True] * 6)
    group_n = np.array([*(np.arange(12) // 3), 4, 4, 5, 5, 5, 5])
    resamples = resample_images(labels, num_resamples=4000, rng=np.random.default_rng(0), group_n=group_n)
    normal_more, anomalous_more = resamples.one_more_Rn[:, labels], resamples.one_more_Rn[:, ~labels]
    assert normal_more.sum(axis=1).mean() == pytest.approx(12 / 4, rel=0.07)
    assert anomalous_more.sum(axis=1).mean() == pytest.approx(6 / (36 / 20), rel=0.07)
    both = (normal_more[:, 0] > 0) == (normal_more[:, 2] == 0)
    assert both.all(), "one group or the other"
    assert (normal_more[:, 0] == normal_more[:, 1]).all()
    assert (normal_more[:, 2:] == normal_more[:, [2]]).all()


@pytest.mark.parametrize("gap", [0.0, 5.0, 50.0])
def test_of_perfectly_ranked_images_the_resamples_differ_whatever_the_gap(gap: float) -> None:
    labels = np.array([False] * 7 + [True] * 16)
    scores = np.arange(23) + gap * labels
    resamples = resample_images(labels, num_resamples=1000, rng=np.random.default_rng(0))
    found = resampled_image_metrics(resamples, scores)
    assert found is not None
    for each in found.values():
        assert each.values_R.mean() == pytest.approx(1)
        assert 0.01 < each.values_R.std() < 0.06


def test_resamples_keep_the_number_of_each_label_and_differ() -> None:
    labels, _ = drawn(ties=False)
    resamples = resample_images(labels, num_resamples=200, rng=np.random.default_rng(0))
    assert (resamples.counts_Rn[:, labels].sum(axis=1) == labels.sum()).all()
    assert (resamples.counts_Rn[:, ~labels].sum(axis=1) == (~labels).sum()).all()
    assert len(np.unique(resamples.counts_Rn, axis=0)) > 190
    # Every image is drawn equally often in the long run: once a resample.
    assert resamples.counts_Rn.mean(axis=0) == pytest.approx(np.ones(len(labels)), abs=0.3)


def test_one_is_left_out_of_every_resample_and_each_as_often() -> None:
    counts = bootknife(5, num_resamples=4000, rng=np.random.default_rng(0))
    assert (counts.sum(axis=1) == 5).all()
    assert (counts == 0).any(axis=1).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(5), abs=0.1)
    # Drawn from all but one the mean has the variance that it has: s^2 / n, where the plain bootstrap has (n - 1) / n of that.
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    assert np.var(counts @ values / 5) == pytest.approx(values.var(ddof=1) / 5, rel=0.05)
    assert (bootknife(1, num_resamples=3, rng=np.random.default_rng(0)) == 1).all()


def test_degrees_of_freedom_are_those_of_the_rarer_label() -> None:
    labels, rng = np.array([False] * 7 + [True] * 16), np.random.default_rng(0)

    def degrees(labels: np.ndarray, group_n: np.ndarray | None = None) -> float:
        resamples = resample_images(labels, num_resamples=2, rng=rng, group_n=group_n)
        found = resampled_image_metrics(resamples, rng.random(len(labels)))
        assert found is not None
        (degrees_of_freedom,) = {each.degrees_of_freedom for each in found.values()}
        return degrees_of_freedom

    assert degrees(labels) == pytest.approx(6)
    assert degrees(labels[6:]) == 1
    # Three pairs of normal images and one with a defect beside it: no more than 49 / 13 groups of equal size would tell.
    assert degrees(labels, np.arange(23) // 2) == pytest.approx(49 / 13 - 1)


def test_what_is_undefined_has_no_replicates() -> None:
    labels, scores = drawn(ties=False)
    resamples = resample_images(labels, num_resamples=5, rng=np.random.default_rng(0))
    assert resampled_image_metrics(resamples, np.where(labels, np.nan, scores)) is None


@pytest.mark.parametrize("label", [False, True])
def test_of_one_label_images_are_drawn_but_have_no_image_metrics(label: bool) -> None:
    resamples = resample_images(np.full(4, label), num_resamples=5, rng=np.random.default_rng(0))
    assert (resamples.counts_Rn.sum(axis=1) == 4).all()
    assert resampled_image_metrics(resamples, np.arange(4.0)) is None


def test_groups_with_both_labels_are_drawn_whole() -> None:
    labels = np.array([False, True, False, True, False, False, True])
    group_n = np.array([0, 0, 1, 1, 2, 2, 3])
    resamples = resample_images(labels, num_resamples=300, rng=np.random.default_rng(0), group_n=group_n)
    counts = resamples.counts_Rn
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 2] == counts[:, 3]).all()
    assert (counts[:, 0] + counts[:, 2] == 2).all(), "the two groups of both labels are a stratum"
    assert (counts[:, 4:] == 1).all(), "the only one of its kind is always there"
