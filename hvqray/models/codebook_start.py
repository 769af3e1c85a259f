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
    """For every route, about `budget` tokens drawn evenly from its images: e_0 to e_N, each (T, D), in one order."""
    num_images_M = sum(
        (torch.bincount(route_B.cpu(), minlength=num_routes) for _, route_B in routed()), torch.zeros(())
    )
    generator = torch.Generator().manual_seed(seed)
    kept: list[list[Tensor]] = [[] for _ in range(num_routes)]
    for features_BChw, route_B in routed():
        states_NBLD = torch.stack(encode(features_BChw))
        for image, route in enumerate(route_B.tolist()):
            num_tokens = states_NBLD.shape[2]
            chosen = torch.randperm(num_tokens, generator=generator)[
                : math.ceil(budget / num_images_M[route].item())
            ]
            kept[route].append(states_NBLD[:, image, chosen.to(states_NBLD.device)])
    return [list(torch.cat(parts, dim=1)) if parts else [] for parts in kept]
