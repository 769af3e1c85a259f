"""k-means for the first codes of a codebook, where the tokens are (Lloyd, "Least squares quantization in PCM", 1982).

The same as scikit-learn's `KMeans(init="random", n_init=1)` with the same seed, up to rounding. To import that one takes a second at
the start of every process that trains, a tenth of what a small sweep waits for its first step, and it knows no GPU.

Shapes: T tokens, D channels, K centres.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

TOLERANCE = 1e-4
"""Centres that move less than this, squared and in units of the mean variance of a channel, have converged."""
_TOKENS_AT_ONCE = 8192


@torch.no_grad()
def kmeans(
    token_TD: Float[Tensor, "T D"], num_centres: int, *, seed: int, max_iterations: int
) -> tuple[Float[Tensor, "K D"], Int[Tensor, " T"]]:
    """The centres in float32, and of every token the index of its nearest one.

    Starts from `num_centres` tokens drawn without replacement. A centre that loses all its tokens goes to the token that is
    farthest from its own; only where there are fewer distinct tokens than centres does it stay without any.

    Raises:
        ValueError: More centres than tokens.
    """
    token_TD = token_TD.float()
    mean_D = token_TD.mean(0)
    token_TD = token_TD - mean_D  # distances between nearby points far from the origin would be rounded away
    drawn = np.random.RandomState(seed).choice(
        len(token_TD), num_centres, replace=False, p=np.full(len(token_TD), 1 / len(token_TD))
    )
    centre_KD = token_TD[torch.from_numpy(drawn).to(token_TD.device)]
    tolerance = TOLERANCE * token_TD.var(0, correction=0).mean()
    label_T = _nearest(token_TD, centre_KD)
    for _ in range(max_iterations):
        moved_KD = _means(token_TD, centre_KD, label_T)
        shift = (moved_KD - centre_KD).square().sum()
        centre_KD, before_T = moved_KD, label_T
        label_T = _nearest(token_TD, centre_KD)
        if shift <= tolerance or torch.equal(label_T, before_T):
            break
    return centre_KD + mean_D, label_T


def _nearest(token_TD: Tensor, centre_KD: Tensor) -> Tensor:
    half_K = centre_KD.square().sum(1) / 2
    return torch.cat([(half_K - part @ centre_KD.T).argmin(1) for part in token_TD.split(_TOKENS_AT_ONCE)])


def _means(token_TD: Tensor, centre_KD: Tensor, label_T: Tensor) -> Tensor:
    """Of every centre the mean of its tokens; a centre without any takes the token that is farthest from its own centre."""
    count_K = torch.bincount(label_T, minlength=len(centre_KD)).to(token_TD)
    sum_KD = torch.zeros_like(centre_KD).index_add_(0, label_T, token_TD)
    empty = (count_K == 0).nonzero()[:, 0]
    if len(empty):
        distance_T = (token_TD - centre_KD[label_T]).square().sum(1)
        farthest = distance_T.topk(len(empty)).indices
        if distance_T[farthest[0]] > 0:
            sum_KD.index_add_(0, label_T[farthest], -token_TD[farthest])
            count_K.index_add_(0, label_T[farthest], -torch.ones_like(count_K[empty]))
            sum_KD[empty], count_K[empty] = token_TD[farthest], 1.0
    return torch.where(count_K[:, None] > 0, sum_KD / count_K.clamp(min=1)[:, None], centre_KD)
