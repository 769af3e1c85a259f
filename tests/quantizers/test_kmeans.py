"""k-means against scikit-learn's with the same seed, and where tokens are few or equal."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from hvqray.quantizers import kmeans as kmeans_module
from hvqray.quantizers.kmeans import kmeans


def reference(points: np.ndarray, num_centres: int, seed: int) -> KMeans:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(num_centres, init="random", n_init=1, max_iter=10, random_state=seed).fit(points)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("num_tokens", "num_centres", "offset"), [(300, 7, 0.0), (900, 64, 100.0), (40, 39, 0.0)]
)
def test_equals_scikit_learn(
    seed: int, num_tokens: int, num_centres: int, offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kmeans_module, "_TOKENS_AT_ONCE", 128)
    points = (np.random.default_rng(seed).normal(size=(num_tokens, 6)) + offset).astype(np.float32)
    centres, labels = kmeans(torch.from_numpy(points), num_centres, seed=seed, max_iterations=10)
    expected = reference(points, num_centres, seed)
    assert np.array_equal(labels.numpy(), expected.labels_)
    np.testing.assert_allclose(centres.numpy(), expected.cluster_centers_, atol=1e-5 * (1 + offset))


@pytest.mark.parametrize("seed", range(4))
def test_a_centre_that_loses_its_tokens_takes_the_farthest(seed: int) -> None:
    """Of 60 tokens 50 are one point, so most of the centres that are drawn lie on it and lose all tokens to the first."""
    points = np.zeros((60, 3), np.float32)
    points[50:] = np.random.default_rng(seed).normal(size=(10, 3)) * 10
    centres, labels = kmeans(torch.from_numpy(points), 8, seed=seed, max_iterations=10)
    expected = reference(points, 8, seed)
    inertia = ((points - centres.numpy()[labels.numpy()]) ** 2).sum()
    assert inertia == pytest.approx(expected.inertia_, rel=1e-4)
    assert len(labels.unique()) == 8


def test_more_centres_than_distinct_tokens_leaves_the_rest_where_they_are() -> None:
    points = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat(5, 1)
    centres, labels = kmeans(points, 6, seed=0, max_iterations=10)
    assert torch.equal(centres[labels], points)
    assert len(labels.unique()) == 2
    assert {tuple(centre) for centre in centres.tolist()} == {(1.0, 2.0), (3.0, 4.0)}


def test_more_centres_than_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="larger sample"):
        kmeans(torch.zeros(3, 2), 4, seed=0, max_iterations=10)
