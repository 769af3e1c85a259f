"""Gaussians of many places at once: their moments, shrunk covariances and whitening factors.

Shapes: P places, n samples, C channels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

RIDGE = 0.01
"""Share of the mean variance that is added to every variance, so that few images suffice for the inverse."""
PLACES_AT_ONCE = 14
"""Places whose matrices a CPU works on at a time: so many that they stay in its cache."""
LEAF = 24
"""Side of the blocks at which the inverse of a triangular matrix is left to LAPACK, which is slower than products of blocks."""
BAND = 48
"""Rows of a triangular matrix that are multiplied at a time, without the zeros to their right."""


class Moments:
    """Sums over n samples a place: of their differences from `origin_PC`, and of these differences' products."""

    def __init__(self, origin_PC: Float[Tensor, "P C"]) -> None:
        self.count = 0
        self.origin_PC = origin_PC
        self.sum_PC = torch.zeros_like(origin_PC, dtype=torch.float64)
        self.square_PCC = origin_PC.new_zeros(*origin_PC.shape, origin_PC.shape[1])

    def add(self, x_PnC: Float[Tensor, "P n C"]) -> None:
        x_PnC = x_PnC - self.origin_PC[:, None]
        self.count += x_PnC.shape[1]
        self.sum_PC += x_PnC.sum(1)
        with torch.autocast(x_PnC.device.type, enabled=False):
            self.square_PCC.baddbmm_(x_PnC.mT, x_PnC)

    def mean_and_covariance(self) -> tuple[Float[Tensor, "P C"], Float[Tensor, "P C C"]]:
        """The covariances take the place of the sums, as there may be no room for both."""
        mean_PC = (self.sum_PC / self.count).to(self.origin_PC.dtype)
        covariance_PCC = self.square_PCC.div_(self.count)
        covariance_PCC.addcmul_(mean_PC[:, :, None], mean_PC[:, None, :], value=-1)
        return self.origin_PC + mean_PC, covariance_PCC


def oas_shrinkage(
    covariance_PCC: Float[Tensor, "P C C"], target_CC: Float[Tensor, "C C"], num_samples: int
) -> float:
    """How much of `target_CC` to mix into the places' covariances, each measured on `num_samples` samples.

    Oracle approximating shrinkage (Chen et al., 2010, arXiv 0907.4698, eq. 23) in coordinates in which the target is the
    identity; the mean over places. 1 where a place is all that there is to the target.
    """
    channels = len(target_CC)
    traces, squares = [], []
    with torch.autocast(target_CC.device.type, enabled=False):
        factor_CC = inverse_factor(
            target_CC + RIDGE * target_CC.diagonal().mean() * torch.eye(channels).to(target_CC)
        )
        precision_CC = factor_CC.mT @ factor_CC
        for covariance_pCC in covariance_PCC.split(places_at_once(covariance_PCC)):
            # S F^T F has the trace and the square's trace of F S F^T, and takes one product.
            turned_pCC = covariance_pCC @ precision_CC
            traces.append(turned_pCC.diagonal(dim1=1, dim2=2).sum(1))
            squares.append((turned_pCC * turned_pCC.mT).sum((1, 2)))
    trace_P, square_P = torch.cat(traces), torch.cat(squares)
    numerator_P = (1 - 2 / channels) * square_P + trace_P.square()
    denominator_P = (num_samples + 1 - 2 / channels) * (square_P - trace_P.square() / channels)
    # A denominator of 0, a covariance that is a multiple of the target's, makes the share 1: nothing is lost by it.
    share_P = torch.where(denominator_P > numerator_P, numerator_P / denominator_P, 1.0)
    return share_P.mean().item()


def inverse_factor(covariance_xCC: Float[Tensor, "*x C C"]) -> Float[Tensor, "*x C C"]:
    """L^-1 of the Cholesky factor L, lower triangular: it makes a vector of that covariance white.

    Of four blocks [[A, B^T], [B, D]], with A^-1 = P^T P by P of A, and Q of what of D the rest does not explain, D - B A^-1 B^T:
    L^-1 = [[P, 0], [-Q B A^-1, Q]].
    """
    channels = covariance_xCC.shape[-1]
    if channels <= LEAF:
        eye_CC = torch.eye(channels, dtype=covariance_xCC.dtype, device=covariance_xCC.device)
        return torch.linalg.solve_triangular(torch.linalg.cholesky(covariance_xCC), eye_CC, upper=False)
    half = channels // 2
    upper, lower = slice(None, half), slice(half, None)
    inverse_xCC = torch.zeros_like(covariance_xCC)
    inverse_xCC[..., upper, upper] = inverse_factor(covariance_xCC[..., upper, upper])
    across = covariance_xCC[..., lower, upper] @ inverse_xCC[..., upper, upper].mT
    rest = inverse_factor(covariance_xCC[..., lower, lower] - across @ across.mT)
    inverse_xCC[..., lower, lower] = rest
    inverse_xCC[..., lower, upper] = (rest @ (across @ inverse_xCC[..., upper, upper])).neg_()
    return inverse_xCC


def mean_squares(
    whitening_PCC: Float[Tensor, "P C C"], covariance_PCC: Float[Tensor, "P C C"]
) -> Float[Tensor, " P"]:
    """tr(W S W^T) with W lower triangular: the mean squared distance of samples of covariance S."""
    total_P = whitening_PCC.new_zeros(len(whitening_PCC))
    for start in range(0, whitening_PCC.shape[-1], BAND):
        end = start + BAND
        band = whitening_PCC[:, start:end, :end]
        total_P += (band @ covariance_PCC[:, :end, :end]).mul_(band).sum((1, 2))
    return total_P


def left_out(square: Tensor, count: int, own_share: float) -> Tensor:
    """Squared Mahalanobis distances of samples that are among the `count` a place that its Gaussian was measured on, as if they were not.

    Of S without the sample d, n / (n - 1) (S - d d^T / (n - 1)), the inverse is that of S and a product (Sherman and Morrison, 1950).
    What the covariance has from elsewhere, all but `own_share` of it, is taken to change with S. Exact where there is nothing from elsewhere.
    """
    if count < 2:
        return square
    rest = (1 - own_share / (count - 1) * square).clamp_min(1 / count)  # not 0 but for rounding
    return count / (count - 1) * square / rest


def places_at_once(x_PxC: Tensor) -> int:
    """How many places to work on at a time: all of them on a GPU, and in an exported graph."""
    return len(x_PxC) if x_PxC.device.type != "cpu" or torch.compiler.is_exporting() else PLACES_AT_ONCE
