"""k-means of several sets of tokens at once.

Shapes: T tokens, D their width, K centres.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

ITERATIONS = 4
"""More fit the given tokens ever better, but those of other images by 1 or 2 % at most, and codes move with the first steps."""


class Clusters(NamedTuple):
    """What k-means makes of tokens."""

    centre_KD: Float[Tensor, "K D"]
    index_T: Int[Tensor, " T"]
    """The centre that each token belongs to."""


def kmeans_of_each(tokens: Sequence[Float[Tensor, "T D"]], *, num_centres: int, seed: int) -> list[Clusters]:
    """Lloyd's algorithm from tokens drawn at random (scikit-learn's), on the CPU, of each of the sets by itself.

    There are K = `num_centres` of each, or as many as it has distinct tokens. As many sets at once as torch computes with
    threads, each on one: the threads of a set would add up in no fixed order, and a trial must be repeatable to the bit.
    """
    # Imported late: it takes a second, which trials that start otherwise, or have no VQ, need not wait.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    points = [each.float().cpu() for each in tokens]
    sizes = [min(num_centres, len(each.unique(dim=0))) for each in points]

    def clusters(points_TD: Tensor, size: int) -> Clusters:
        kmeans = KMeans(size, init="random", n_init=1, max_iter=ITERATIONS, random_state=seed)
        labels_T = torch.from_numpy(kmeans.fit_predict(points_TD.numpy())).long()
        return Clusters(torch.from_numpy(kmeans.cluster_centers_), labels_T)

    at_once = torch.get_num_threads()  # which the limit takes to 1 as well
    with threadpool_limits(1), warnings.catch_warnings():
        # Nearly equal tokens may leave a centre without any.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # OpenMP's limit is a thread's own, so each of the pool's has to set it again.
        with ThreadPoolExecutor(at_once, initializer=threadpool_limits, initargs=(1,)) as threads:
            return list(threads.map(clusters, points, sizes))
