"""The coreset is the plain greedy one, however few distances are computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hvqray.models import coreset
from hvqray.models.coreset import greedy_coreset, nearest


def plain_greedy(x_nd: np.ndarray, first: int, k: int) -> list[int]:
    """One pass over everything a step, in float64."""
    chosen = [first]
    while len(chosen) < k:
        distance_nk = np.linalg.norm(x_nd[:, None] - x_nd[None, chosen], axis=2)
        chosen.append(int(distance_nk.min(1).argmax()))
    return chosen


@pytest.mark.parametrize("num_candidates", [8, 40, 4096])
def test_equals_the_plain_algorithm(monkeypatch: pytest.MonkeyPatch, num_candidates: int) -> None:
    monkeypatch.setattr(coreset, "NUM_CANDIDATES", num_candidates)
    x_nd = torch.randn(300, 6, generator=torch.Generator().manual_seed(1)) * torch.tensor([9, 3, 1, 1, 1, 1])
    chosen = greedy_coreset(x_nd, 60, seed=3).tolist()
    assert chosen == plain_greedy(x_nd.double().numpy(), chosen[0], 60)


def test_far_from_the_origin_nothing_is_lost() -> None:
    x_nd = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(greedy_coreset(x_nd + 1000, 20, seed=0), greedy_coreset(x_nd, 20, seed=0))


def test_equal_vectors_are_chosen_once_each() -> None:
    chosen = greedy_coreset(torch.ones(30, 3), 30, seed=0)
    assert sorted(chosen.tolist()) == list(range(30))


def test_more_than_there_are_means_all() -> None:
    x_nd = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    assert sorted(greedy_coreset(x_nd, 50, seed=0).tolist()) == list(range(7))


def test_the_seed_chooses_the_first() -> None:
    x_nd = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    firsts = {int(greedy_coreset(x_nd, 1, seed=seed)[0]) for seed in range(8)}
    assert len(firsts) > 1


def test_nearest_of_itself_is_at_no_distance() -> None:
    x_QD = torch.randn(80, 6, generator=torch.Generator().manual_seed(0)) + 100
    distance_Q, index_Q = nearest(x_QD, x_QD)
    assert torch.equal(index_Q, torch.arange(len(x_QD)))
    assert float(distance_Q.max()) < 1e-4


def test_nearest_is_the_same_however_many_are_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    x_QD, memory_KD = (torch.randn(n, 6, generator=generator) for n in (50, 9))
    expected = torch.cdist(x_QD, memory_KD, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    monkeypatch.setattr(coreset, "_QUERIES_AT_ONCE", 7)
    distance_Q, index_Q = nearest(x_QD, memory_KD)
    torch.testing.assert_close(distance_Q, expected.values)
    assert torch.equal(index_Q, expected.indices)
