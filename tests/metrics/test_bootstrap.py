"""Replicates against scikit-learn on the images that each resample holds, one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from hvqray.metrics import IMAGE_METRICS, image_metrics
from hvqray.metrics.bootstrap import Resamples, bootknife, resample_images, resampled_image_metrics


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
    for number, counts in enumerate(resamples.counts_Rn):
        y, s = np.repeat(labels, counts), np.repeat(scores, counts)
        precision, recall, _ = precision_recall_curve(y, s)
        f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-300)).max()
        expected = (roc_auc_score(y, s), average_precision_score(y, s), f1)
        assert [found[name].values_R[number] for name in IMAGE_METRICS] == pytest.approx(expected, abs=1e-12)


def test_each_image_once_gives_the_metrics_themselves() -> None:
    labels, scores = drawn(ties=True)
    once = Resamples(np.ones((1, len(labels)), dtype=np.int64), labels, np.arange(len(labels)))
    found = resampled_image_metrics(once, scores)
    assert found is not None
    expected = image_metrics(labels, scores)
    assert {name: each.values_R[0] for name, each in found.items()} == pytest.approx(
        {name: expected[name] for name in IMAGE_METRICS}, abs=1e-12
    )


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
