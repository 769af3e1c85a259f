"""k-means of several sets of tokens at once, against scikit-learn's of each alone."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import sklearn.cluster
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from hvqray.data.cores import torch_threads
from hvqray.quantizers.kmeans import ITERATIONS, kmeans_of_each


def token_sets() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(num_tokens, 6, generator=generator) for num_tokens in (200, 90, 300, 40)]


@pytest.mark.parametrize("threads", [1, 3])
def test_each_set_is_what_it_is_alone(threads: int) -> None:
    with torch_threads(threads):
        found = kmeans_of_each(token_sets(), num_centres=8, seed=5)
    for tokens_TD, clusters in zip(token_sets(), found, strict=True):
        alone = KMeans(8, init="random", n_init=1, max_iter=ITERATIONS, random_state=5).fit(tokens_TD.numpy())
        np.testing.assert_array_equal(clusters.centre_KD.numpy(), alone.cluster_centers_)
        np.testing.assert_array_equal(clusters.index_T.numpy(), alone.labels_)


def test_sets_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    both_at_work = threading.Barrier(2, timeout=20)

    class MeetingKMeans(KMeans):
        def fit_predict(self, points: np.ndarray) -> np.ndarray:
            both_at_work.wait()  # raises where one set waits for the other
            return super().fit_predict(points)

    monkeypatch.setattr(sklearn.cluster, "KMeans", MeetingKMeans)
    with torch_threads(2):
        assert len(kmeans_of_each(token_sets()[:2], num_centres=4, seed=0)) == 2


def test_no_more_centres_than_distinct_tokens() -> None:
    tokens_TD = torch.tensor([[1.0, 0], [0, 1.0], [1.0, 0]])
    (clusters,) = kmeans_of_each([tokens_TD], num_centres=5, seed=0)
    torch.testing.assert_close(clusters.centre_KD[clusters.index_T], tokens_TD)
    assert len(clusters.centre_KD) == 2
