"""Where the codebooks of a hierarchy start: at the k-means centres of training tokens, the top level first.

Shapes: B batch, C feature channels, h x w feature grid, L tokens, D width, M routes, T tokens kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from hvqray.models.levels import Level
from hvqray.quantizers.vq import VectorQuantizer

TOKENS_PER_CODE = 8
"""Training tokens per code that k-means is given."""

MOST_OF_IMAGE = 1 / 4
"""Every second image of a route does where it need not give a larger share of its tokens: encoding takes longer than k-means then."""

RoutedFeatures = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""Starts a new pass over (features (B, C, h, w), route (B,)) of the training images."""


@torch.no_grad()
def start_codebooks(
    routed: RoutedFeatures,
    *,
    encode: Callable[[Tensor], list[Tensor]],
    top: Level,
    lower: Sequence[Level],
    num_routes: int,
    seed: int,
) -> None:
    """Start `top` from e_N and `lower[i]` from [e_i ; t], where `encode` gives e_0 to e_N, each (B, L, D).

    Levels without learned codes stay as they are. The model is in eval mode.
    """
    learned = [level for level in (top, *lower) if isinstance(level, VectorQuantizer)]
    budget = TOKENS_PER_CODE * max(level.codebook_size for level in learned)
    sampled = _sample_states(routed, encode, num_routes=num_routes, budget=budget, seed=seed)
    # No image of a class in the sample: its codes stay at random until it is seen.
    states_of = {route: states for route, states in enumerate(sampled) if states}
    routes, at_once = list(states_of), torch.get_num_threads()
    # As many classes as k-means takes at once, and no more: lower levels' tokens are large.
    for first in range(0, len(routes), at_once):
        some = {route: states_of[route] for route in routes[first : first + at_once]}
        if isinstance(top, VectorQuantizer):
            top.start_from_tokens({route: states[-1] for route, states in some.items()}, seed=seed)
        code_of = {
            route: top(states[-1][None], torch.tensor([route], device=states[-1].device)).quantized_BLD[0]
            for route, states in some.items()
        }
        for i, level in enumerate(lower):
            if isinstance(level, VectorQuantizer):
                tokens = {
                    route: torch.cat([states[i], code_of[route]], dim=-1) for route, states in some.items()
                }
                # Another draw of first centres at each level: from the same tokens they would divide them alike.
                level.start_from_tokens(tokens, seed=seed + 1 + i)


def _sample_states(
    routed: RoutedFeatures,
    encode: Callable[[Tensor], list[Tensor]],
    *,
    num_routes: int,
    budget: int,
    seed: int,
) -> list[list[Tensor]]:
    """For every route, about `budget` tokens drawn evenly from its images, or from every second one of them: e_0 to e_N, each
    (T, D), in one order."""
    num_images_M, num_tokens = [0] * num_routes, 0
    for features_BChw, route_B in routed():
        num_tokens = features_BChw.shape[2] * features_BChw.shape[3]
        for route in route_B.tolist():
            num_images_M[route] += 1
    step_M = [
        2 if budget <= MOST_OF_IMAGE * num_tokens * (num_images // 2) else 1 for num_images in num_images_M
    ]
    generator = torch.Generator().manual_seed(seed)
    kept: list[list[Tensor]] = [[] for _ in range(num_routes)]
    next_M = [0] * num_routes
    for features_BChw, route_B in routed():
        taken = []
        for image, route in enumerate(route_B.tolist()):
            if next_M[route] % step_M[route] == 0:
                taken.append((image, route))
            next_M[route] += 1
        if not taken:
            continue
        rows = torch.tensor([image for image, _ in taken], device=features_BChw.device)
        states_NBLD = torch.stack(encode(features_BChw[rows]))
        for row, (_, route) in enumerate(taken):
            num_taken = math.ceil(num_images_M[route] / step_M[route])
            chosen = torch.randperm(num_tokens, generator=generator)[: math.ceil(budget / num_taken)]
            kept[route].append(states_NBLD[:, row, chosen.to(states_NBLD.device)])
    return [list(torch.cat(parts, dim=1)) if parts else [] for parts in kept]
