"""Distances that were asked for before."""

from __future__ import annotations

import pytest
import torch
from pretend_gpu import pretend_gpu
from torch import Tensor

from hvqray.models import known_distances
from hvqray.models.coreset import nearest
from hvqray.models.known_distances import KnownDistances


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many features distances were computed of, a call each."""
    calls: list[int] = []

    def counted(x_nC: Tensor, kept_KC: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(x_nC))
        return nearest(x_nC, kept_KC)

    monkeypatch.setattr(known_distances, "nearest", counted)
    return calls


def draw(number: int, seed: int) -> Tensor:
    return torch.randn(number, 5, generator=torch.Generator().manual_seed(seed))


def test_the_same_are_computed_once(computed: list[int]) -> None:
    distances, x, kept = KnownDistances(most=100), draw(7, 0), draw(3, 1)
    first = distances(x, kept)
    assert torch.equal(first, nearest(x, kept)[0])
    assert torch.equal(distances(x.clone(), kept.clone()), first)
    # In another layout they are the same, too.
    assert torch.equal(distances(x.T.contiguous().T, kept), first)
    assert computed == [7]


@pytest.mark.parametrize("changed", ["features", "kept"])
def test_others_are_not_taken_for_them(computed: list[int], changed: str) -> None:
    distances, x, kept = KnownDistances(most=100), draw(7, 0), draw(3, 1)
    distances(x, kept)
    (x if changed == "features" else kept)[2, 4] += 1e-3
    assert torch.equal(distances(x, kept), nearest(x, kept)[0])
    assert computed == [7, 7]


def test_those_of_long_ago_are_forgotten(computed: list[int]) -> None:
    distances, kept = KnownDistances(most=10), draw(3, 1)
    for seed in (0, 1, 0, 2, 0, 1):  # four each, so two at a time
        distances(draw(4, seed), kept)
    assert len(computed) == 4, "0, 1, 2, and 1 again"
    for _ in range(2):
        distances(draw(11, 3), kept)
    assert computed[4:] == [11, 11], "more than may be kept"
    distances(draw(4, 0), kept)
    assert len(computed) == 6, "for which nothing was forgotten"


def test_what_lies_on_a_gpu_is_not_looked_at(computed: list[int]) -> None:
    with pretend_gpu():
        distances, x, kept = KnownDistances(most=100), draw(7, 0).to("cuda"), draw(3, 1).to("cuda")
        for _ in range(2):
            distances(x, kept)
    assert computed == [7, 7]
