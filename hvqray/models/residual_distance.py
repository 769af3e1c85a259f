"""How large a reconstruction's error is, judged by the errors on normal images.

Shapes: B batch, C feature channels, h x w feature grid, R routes (classes, or one for all).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

SHRINKAGE = 0.01
"""Share of the mean variance that is added to every variance, so that few images suffice for the inverse."""


class MahalanobisDistance(nn.Module):
    """Mahalanobis distance of a location's error from the errors of its route on normal training images.

    Directions in which even normal images are badly reconstructed count for little, as in PaDiM (Defard et al., 2021,
    arXiv 2011.08785), but of errors rather than features, and with one Gaussian a route rather than one a location.
    """

    mean_RC: Tensor
    precision_RCC: Tensor

    def __init__(self, num_routes: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean_RC", torch.zeros(num_routes, channels))
        self.register_buffer("precision_RCC", torch.eye(channels).repeat(num_routes, 1, 1))

    @torch.no_grad()
    def fit(self, errors: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Take mean and covariance from `(error_BChw, route_B)` of normal images; a route without any keeps its own."""
        num_routes, channels = self.mean_RC.shape
        # float64: sums of squares over tens of thousands of locations
        count_R = self.mean_RC.new_zeros(num_routes, dtype=torch.float64)
        sum_RC = self.mean_RC.new_zeros(num_routes, channels, dtype=torch.float64)
        square_RCC = self.mean_RC.new_zeros(num_routes, channels, channels, dtype=torch.float64)
        for error_BChw, route_B in errors:
            x_BLC = error_BChw.double().flatten(2).mT
            count_R.index_add_(0, route_B, torch.full_like(route_B, x_BLC.shape[1], dtype=torch.float64))
            sum_RC.index_add_(0, route_B, x_BLC.sum(1))
            square_RCC.index_add_(0, route_B, x_BLC.mT @ x_BLC)
        for route in count_R.nonzero()[:, 0].tolist():
            mean_C = sum_RC[route] / count_R[route]
            covariance_CC = square_RCC[route] / count_R[route] - torch.outer(mean_C, mean_C)
            ridge = SHRINKAGE * covariance_CC.diagonal().mean().clamp_min(1e-12)
            covariance_CC.diagonal().add_(ridge)
            self.mean_RC[route] = mean_C
            self.precision_RCC[route] = torch.linalg.inv(covariance_CC)

    def forward(
        self, error_BChw: Float[Tensor, "B C h w"], route_B: Int[Tensor, " B"]
    ) -> Float[Tensor, "B h w"]:
        """sqrt((r - mean)^T precision (r - mean)) at every location, in float32."""
        with torch.autocast(error_BChw.device.type, enabled=False):
            x_BLC = error_BChw.float().flatten(2).mT - self.mean_RC[route_B][:, None]
            distance_BL = ((x_BLC @ self.precision_RCC[route_B]) * x_BLC).sum(-1).clamp_min(0).sqrt()
        return distance_BL.unflatten(1, error_BChw.shape[2:])
