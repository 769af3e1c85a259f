"""Where codebooks start, level by level."""

from __future__ import annotations

from itertools import combinations

import torch
from sklearn.metrics import adjusted_rand_score

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
