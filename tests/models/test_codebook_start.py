"""Where codebooks start, level by level."""

from __future__ import annotations

from itertools import combinations

import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from hvqray.models.codebook_start import start_codebooks
from hvqray.quantizers.vq import VectorQuantizer

WIDTH, CODEBOOK_SIZE, DEPTH = 8, 32, 3


def test_levels_with_the_same_tokens_divide_them_differently() -> None:
    """Each draws first centres of its own; from one draw they would agree to the last token, and say the same."""
    x_BLD = torch.randn(4, 100, WIDTH, generator=torch.Generator().manual_seed(0))
    route_B = torch.zeros(4, dtype=torch.int64)
    top = VectorQuantizer(1, CODEBOOK_SIZE, WIDTH).eval()
    lower = [VectorQuantizer(1, CODEBOOK_SIZE, 2 * WIDTH).eval() for _ in range(DEPTH)]
    start_codebooks(
        lambda: iter([(x_BLD.mT[..., None], route_B)]),
        encode=lambda features: [features.flatten(2).mT] * (DEPTH + 1),
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


def _encoded(codebook_size: int, *, num_images: int, grid: int) -> list[list[int]]:
    """The images that a pass encodes, of each of two routes; every pixel of an image is its number."""
    routes_B = torch.arange(num_images) % 2
    features_BChw = torch.arange(num_images).float()[:, None, None, None].expand(-1, 4, grid, grid)
    seen: list[int] = []

    def encode(features: Tensor) -> list[Tensor]:
        seen.extend(int(image) for image in features[:, 0, 0, 0])
        return [features.flatten(2).mT] * 2

    start_codebooks(
        lambda: zip(features_BChw.split(5), routes_B.split(5), strict=True),
        encode=encode,
        top=VectorQuantizer(2, codebook_size, 4).eval(),
        lower=[VectorQuantizer(2, codebook_size, 8).eval()],
        num_routes=2,
        seed=0,
    )
    return [[image for image in seen if image % 2 == route] for route in (0, 1)]


def test_every_second_image_of_a_route_does_for_small_codebooks() -> None:
    # A quarter of the 36 tokens of each of four images: enough for 4 codes of 8 tokens each, too few for 5.
    routes = [list(range(route, 16, 2)) for route in (0, 1)]
    assert _encoded(4, num_images=16, grid=6) == [images[::2] for images in routes]
    assert _encoded(5, num_images=16, grid=6) == routes
