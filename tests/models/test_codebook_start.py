"""Which tokens each level starts from, and that levels divide them differently; that k-means puts codes close to them is tested with the model (`test_hvq`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from hvqray.models.codebook_start import start_codebooks
from hvqray.quantizers.vq import VectorQuantizer

SIDE = 6
WIDTH, CODEBOOK_SIZE, DEPTH = 8, 32, 3


def tokens_of_levels(
    monkeypatch: pytest.MonkeyPatch, *, sizes: Sequence[int], images: Sequence[int], seed: int = 0
) -> tuple[list[dict[int, Tensor]], int]:
    """For each level, the top first, the (image, location) of every token that each route's codes start from; and how many
    batches were encoded. Route r has `images[r]` images, two to a batch."""
    given: list[dict[int, Tensor]] = []

    def keep(level: VectorQuantizer, tokens: dict[int, Tensor], *, seed: int) -> None:
        given.append({route: each[:, :2] for route, each in tokens.items()})

    monkeypatch.setattr(VectorQuantizer, "start_from_tokens", keep)
    route_n = torch.cat([torch.full((count,), route) for route, count in enumerate(images)])
    location = torch.arange(SIDE**2).view(SIDE, SIDE)
    num_encoded = 0

    def routed() -> Iterator[tuple[Tensor, Tensor]]:
        for image_B, route_B in zip(torch.arange(len(route_n)).split(2), route_n.split(2), strict=True):
            image_Bhw = image_B[:, None, None].expand(-1, SIDE, SIDE)
            yield torch.stack([image_Bhw, location.expand_as(image_Bhw)], dim=1).float(), route_B

    def encode(features_BChw: Tensor) -> list[Tensor]:
        nonlocal num_encoded
        num_encoded += 1
        return [features_BChw.flatten(2).mT] * len(sizes)

    top, *lower = (
        VectorQuantizer(len(images), size, 2 if i == 0 else 4).eval() for i, size in enumerate(sizes)
    )
    start_codebooks(routed, encode=encode, top=top, lower=lower, num_routes=len(images), seed=seed)
    return given, num_encoded


def test_every_level_has_eight_tokens_a_code_of_its_own_evenly_from_the_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes, images = [2, 12, 5], [5, 0, 7]
    levels, _ = tokens_of_levels(monkeypatch, sizes=sizes, images=images)
    for size, level in zip(sizes, levels, strict=True):
        assert level.keys() == {0, 2}
        for route, tokens in level.items():
            assert len(tokens) == 8 * size
            assert len(tokens.unique(dim=0)) == 8 * size
            image, count = tokens[:, 0].unique(return_counts=True)
            assert image.tolist() == (list(range(5)) if route == 0 else list(range(5, 12)))
            assert count.max() - count.min() <= 1
    for route, most in levels[1].items():
        for level in levels:
            assert torch.equal(level[route], most[: len(level[route])])


def test_where_there_are_more_images_than_tokens_they_are_of_images_from_all_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (small, large), _ = tokens_of_levels(monkeypatch, sizes=[2, 4], images=[400])
    for tokens, count in ((small[0], 16), (large[0], 32)):
        chosen = tokens[:, 0]
        assert len(chosen) == len(chosen.unique()) == count
        assert chosen.min() < 100
        assert chosen.max() >= 300


def test_a_level_takes_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    levels, _ = tokens_of_levels(monkeypatch, sizes=[2, 50], images=[3])
    assert [len(level[0]) for level in levels] == [16, 3 * SIDE**2]


def test_the_draw_is_the_seeds_and_encodes_every_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [
        tokens_of_levels(monkeypatch, sizes=[2, 4], images=[5, 3], seed=seed)[0][1][0] for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert tokens_of_levels(monkeypatch, sizes=[2, 4], images=[5, 3])[1] == 4


def test_levels_with_the_same_tokens_divide_them_differently() -> None:
    """Each draws first centres of its own; from one draw they would agree to the last token, and say the same."""
    x_BLD = torch.randn(4, 100, WIDTH, generator=torch.Generator().manual_seed(0))
    route_B = torch.zeros(4, dtype=torch.int64)
    top = VectorQuantizer(1, CODEBOOK_SIZE, WIDTH).eval()
    lower = [VectorQuantizer(1, CODEBOOK_SIZE, 2 * WIDTH).eval() for _ in range(DEPTH)]
    start_codebooks(
        lambda: iter([(x_BLD, route_B)]),
        encode=lambda features: [features] * (DEPTH + 1),
        top=top,
        lower=lower,
        num_routes=1,
        seed=0,
    )
    of_top = top(x_BLD, route_B)
    below_BLW = torch.cat([x_BLD, of_top.quantized_BLD], dim=-1)
    codes = [of_top.indices_BL, *(level(below_BLW, route_B).indices_BL for level in lower)]
    for one, other in combinations(codes, 2):
        assert adjusted_rand_score(one.flatten(), other.flatten()) < 0.95
