"""The coreset is the plain greedy one, however few distances are computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hvqray.models import coreset
from hvqray.models.coreset import greedy_coreset


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
