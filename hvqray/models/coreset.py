"""Greedy k-centre coreset: of many vectors those few that leave no other one far from all of them.

Algorithm 1 of Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022, arXiv 2106.08265, which
takes it from Sener and Savarese, "Active Learning for Convolutional Neural Networks", ICLR 2018. The choice is that
of the plain algorithm, without its pass over all vectors at every step: distances to the chosen ones only shrink, so
known ones are upper bounds, and the farthest vector is found among a few candidates until these have shrunk below
the bounds of all others. The others then catch up with several chosen ones in one matrix product.

Shapes: n vectors, d dimensions, k vectors chosen, m candidates, j chosen since the last pass; Q queries, D dimensions, K rows kept.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

NUM_CANDIDATES = 4096
_BLOCK_SIZE = 16384
_QUERIES_AT_ONCE = 4096


def greedy_coreset(x_nd: Float[Tensor, "n d"], k: int, *, seed: int) -> Int[Tensor, " k"]:
    """Indices of `k` (at most n) vectors: the first at random, each further one the farthest from all before it."""
    num = len(x_nd)
    x_nd = x_nd - x_nd.mean(0)  # small norms lose little in the subtraction of squares
    square_n = x_nd.square().sum(1)
    chosen = [int(torch.randint(num, (), generator=torch.Generator().manual_seed(seed)))]
    bound_n = torch.full_like(square_n, torch.inf)
    _lower(bound_n, x_nd, square_n, chosen)
    while len(chosen) < min(k, num):
        bound_m, candidate_m = bound_n.topk(min(NUM_CANDIDATES + 1, num))
        floor = float(bound_m[-1]) if num > NUM_CANDIDATES else -torch.inf
        x_md, square_m = x_nd[candidate_m], square_n[candidate_m]
        fresh: list[int] = []
        while len(chosen) + len(fresh) < min(k, num):
            best = bound_m.argmax()
            if fresh and bound_m[best] < floor:
                break
            fresh.append(int(candidate_m[best]))
            distance_m = torch.addmv(square_m + square_m[best], x_md, x_md[best], alpha=-2)
            torch.minimum(bound_m, distance_m, out=bound_m)
            bound_m[best] = -torch.inf  # never twice, even among equal vectors
        _lower(bound_n, x_nd, square_n, fresh)
        chosen += fresh
    return torch.tensor(chosen, device=x_nd.device)


def _lower(bound_n: Tensor, x_nd: Tensor, square_n: Tensor, fresh: list[int]) -> None:
    """Lower the squared distances `bound_n` to those from the vectors `fresh`, where these are nearer."""
    y_jd, square_j = x_nd[fresh], square_n[fresh]
    for start in range(0, len(x_nd), _BLOCK_SIZE):
        rows = slice(start, start + _BLOCK_SIZE)
        nearest_b = torch.addmm(square_j, x_nd[rows], y_jd.T, alpha=-2).amin(1) + square_n[rows]
        bound_n[rows] = torch.minimum(bound_n[rows], nearest_b)
    bound_n[fresh] = -torch.inf


def nearest(
    x_QD: Float[Tensor, "Q D"], memory_KD: Float[Tensor, "K D"]
) -> tuple[Float[Tensor, " Q"], Int[Tensor, " Q"]]:
    """Distance to the nearest row of `memory_KD` and its index, in blocks of bounded memory."""
    centre_D = memory_KD.mean(0)  # small norms lose little in the subtraction below
    memory_KD = memory_KD - centre_D
    square_K = memory_KD.square().sum(1)
    distances, indices = [], []
    # the number of queries is open in an exported graph
    for block_qD in (x_QD,) if torch.compiler.is_exporting() else x_QD.split(_QUERIES_AT_ONCE):
        centred_qD = block_qD - centre_D
        # |x|^2 is the same for all rows, so the rest of |x - m|^2 finds the nearest
        index_q = torch.addmm(square_K, centred_qD, memory_KD.T, alpha=-2).argmin(1)
        distances.append(torch.linalg.vector_norm(centred_qD - memory_KD[index_q], dim=1))
        indices.append(index_q)
    return torch.cat(distances), torch.cat(indices)
