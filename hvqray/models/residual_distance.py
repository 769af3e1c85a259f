"""How large a reconstruction's error is, judged by the errors on normal images.

Shapes: B batch, C feature channels, h x w feature grid, L = h * w locations, R routes (classes, or one for all), P places:
1 where all locations share a Gaussian, L where each has its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hvqray.config.model_sections import ErrorMapFields
from hvqray.models.map_ops import average_neighbourhood, coarse_side

RIDGE = 0.01
"""Share of the mean variance that is added to every variance, so that few images suffice for the inverse."""
ROUNDING = 1e-12
"""Share of the mean square below which a variance is float32's rounding and no spread."""
PLACES_AT_ONCE = 14
"""Places whose matrices a CPU works on at a time: so many that they stay in its cache."""
LEAF = 24
"""Side of the blocks at which the inverse of a triangular matrix is left to LAPACK, which is slower than products of blocks."""
BAND = 48
"""Rows of a triangular matrix that are multiplied at a time, without the zeros to their right."""


class _Moments:
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


class MahalanobisDistance(nn.Module):
    """Mahalanobis distance of a location's error from the errors of its route on normal training images.

    Directions in which even normal images are badly reconstructed count for little, as in PaDiM (Defard et al., 2021,
    arXiv 2011.08785), but of errors rather than features. `local`: with a Gaussian for every location, as PaDiM's,
    whose covariance is (1 - shrinkage) of the location's own and `shrinkage` of the mean over locations; else one
    Gaussian for all locations. Shrinkage `oas` is estimated (`oas_shrinkage`), the same for all locations of a route.
    """

    mean_RPC: Tensor
    whitening_RPCC: Tensor
    scale_R: Tensor
    rms_R: Tensor

    def __init__(
        self,
        num_routes: int,
        channels: int,
        num_locations: int,
        *,
        local: bool = False,
        shrinkage: float | Literal["oas"] = "oas",
    ) -> None:
        super().__init__()
        self.local, self.shrinkage = local, shrinkage
        places = num_locations if local else 1
        # Half precision where there is a matrix a location: it dominates the checkpoint, and 1e-3 of a distance is little.
        dtype = torch.float16 if local else torch.float32
        whitening_RPCC = torch.zeros(num_routes, places, channels, channels, dtype=dtype)
        whitening_RPCC.diagonal(dim1=-2, dim2=-1).fill_(1)
        self.register_buffer("mean_RPC", torch.zeros(num_routes, places, channels))
        self.register_buffer("whitening_RPCC", whitening_RPCC)
        self.register_buffer("scale_R", torch.ones(num_routes))
        self.register_buffer("rms_R", torch.ones(num_routes))
        self._moments: _Moments | None = None

    @torch.no_grad()
    def add(self, error_BChw: Float[Tensor, "B C h w"]) -> None:
        """Take more normal images into account, for `finish`."""
        # a location sees thousands of errors at most, all locations together sum up millions
        x_PnC = self._places(error_BChw).to(torch.float32 if self.local else torch.float64)
        if self._moments is None:
            # Sums of differences from about the mean: squares of a large mean would swallow a small variance.
            self._moments = _Moments(origin_PC=x_PnC.mean(1))
        self._moments.add(x_PnC)

    @torch.no_grad()
    def finish(self, routes: Sequence[int]) -> None:
        """Give `routes` the Gaussians of what was added since the last time.

        Errors that do not vary at all, such as those of a single image, have the unit matrix for a covariance.
        """
        assert self._moments is not None, "nothing was added"
        moments, self._moments = self._moments, None
        with torch.autocast(self.mean_RPC.device.type, enabled=False):
            self._set(routes, moments)

    def _set(self, routes: Sequence[int], moments: _Moments) -> None:
        """Give `routes` the Gaussians of errors with these moments, which are used up."""
        mean_PC, covariance_PCC = moments.mean_and_covariance()
        variance = covariance_PCC.diagonal(dim1=1, dim2=2).mean()
        if variance <= ROUNDING * moments.origin_PC.square().mean():
            covariance_PCC[:] = torch.eye(covariance_PCC.shape[-1])
        pooled_CC = covariance_PCC.mean(0)
        # In units of the typical error, so that half precision holds the factors for features of any size.
        variance = pooled_CC.diagonal().mean().clamp_min(1e-12)
        covariance_PCC /= variance
        pooled_CC /= variance
        if not self.local:
            shrinkage = 0.0  # the mean over one place is itself
        elif self.shrinkage == "oas":
            shrinkage = oas_shrinkage(covariance_PCC, pooled_CC, moments.count)
        else:
            shrinkage = self.shrinkage
        first, *others = routes
        size, squares = _places_at_once(covariance_PCC), []
        blocks = zip(covariance_PCC.split(size), self.whitening_RPCC[first].split(size), strict=True)
        for covariance_pCC, whitening_pCC in blocks:
            shrunk_pCC = covariance_pCC.lerp(pooled_CC, shrinkage)
            shrunk_pCC.diagonal(dim1=1, dim2=2).add_(RIDGE)
            factor_pCC = inverse_factor(shrunk_pCC)
            whitening_pCC.copy_(factor_pCC)
            squares.append(_mean_squares(factor_pCC, covariance_pCC))
        self.mean_RPC[first] = mean_PC
        self.scale_R[first] = variance.sqrt()
        # The root of the mean of squared distances: maps of routes become comparable.
        self.rms_R[first] = torch.cat(squares).mean().sqrt().clamp_min(1e-6)
        for route in others:
            for of_routes in self.buffers():
                of_routes[route] = of_routes[first]

    def forward(
        self, error_BChw: Float[Tensor, "B C h w"], route_B: Int[Tensor, " B"]
    ) -> Float[Tensor, "B h w"]:
        """sqrt((r - mean)^T covariance^-1 (r - mean)) at every location over its root mean square, in float32."""
        distance_BL = error_BChw.new_zeros(
            (error_BChw.shape[0], error_BChw[0, 0].numel()), dtype=torch.float32
        )
        # Matrices gathered for every image would fill the memory, and batches seldom mix routes.
        with torch.autocast(error_BChw.device.type, enabled=False):
            if torch.compiler.is_exporting():  # an exported graph cannot depend on the routes that it sees
                for route in range(len(self.scale_R)):
                    found_BL = self._of_route(error_BChw, route)
                    distance_BL = torch.where((route_B == route)[:, None], found_BL, distance_BL)
            else:
                for route in route_B.unique().tolist():
                    images = (route_B == route).nonzero()[:, 0]
                    distance_BL[images] = self._of_route(error_BChw[images], route)
        return distance_BL.unflatten(1, error_BChw.shape[2:])

    def _of_route(self, error_BChw: Tensor, route: int) -> Float[Tensor, "B L"]:
        """The distances of images of one route."""
        x_PnC = self._places(error_BChw.float()) - self.mean_RPC[route][:, None]
        square_Pn = self._squares(x_PnC / self.scale_R[route], self.whitening_RPCC[route])
        distance_Pn = square_Pn.sqrt() / self.rms_R[route]
        return distance_Pn.mT if self.local else distance_Pn.view(len(error_BChw), -1)

    def _squares(self, x_PnC: Tensor, whitening_PCC: Tensor) -> Float[Tensor, "P n"]:
        """Squared lengths of the whitened `x_PnC`."""
        size = _places_at_once(x_PnC)
        blocks = zip(x_PnC.split(size), whitening_PCC.split(size), strict=True)
        return torch.cat([(x @ whitening.float().mT).square().sum(-1) for x, whitening in blocks])

    def _places(self, error_BChw: Tensor) -> Tensor:
        """Errors by place, (P, n, C): (L, B, C) where `local`, else (1, B * L, C)."""
        x_BLC = error_BChw.flatten(2).mT
        return x_BLC.transpose(0, 1) if self.local else x_BLC.reshape(1, -1, x_BLC.shape[-1])


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
        for covariance_pCC in covariance_PCC.split(_places_at_once(covariance_PCC)):
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


def _mean_squares(
    whitening_PCC: Float[Tensor, "P C C"], covariance_PCC: Float[Tensor, "P C C"]
) -> Float[Tensor, " P"]:
    """tr(W S W^T) with W lower triangular: the mean squared distance of samples of covariance S."""
    total_P = whitening_PCC.new_zeros(len(whitening_PCC))
    for start in range(0, whitening_PCC.shape[-1], BAND):
        end = start + BAND
        band = whitening_PCC[:, start:end, :end]
        total_P += (band @ covariance_PCC[:, :end, :end]).mul_(band).sum((1, 2))
    return total_P


def _places_at_once(x_PxC: Tensor) -> int:
    """How many places to work on at a time: all of them on a GPU, and in an exported graph."""
    return len(x_PxC) if x_PxC.device.type != "cpu" or torch.compiler.is_exporting() else PLACES_AT_ONCE


class ErrorMap(nn.Module):
    """The size of the error at every location: its L2 norm, or its Mahalanobis distance, finely and coarsely seen.

    Coarsely, errors are averaged over 3 x 3 locations (of a finer grid over more, `coarse_side`) before their distance
    is taken, as PatchCore (Roth et al., 2022, arXiv 2106.08265) averages features: noise cancels, which serves image scores, and small defects blur, which harms
    maps. The norm may be added to the distance: it finds small defects better, and less of what is unusual at large.
    All are in units of their root mean square on normal images of the route, or of all routes where it has none.
    """

    norm_rms_R: Tensor

    def __init__(
        self,
        config: ErrorMapFields,
        *,
        num_routes: int,
        channels: int,
        grid_size: tuple[int, int],
        grid_stride: int = 16,
    ) -> None:
        super().__init__()
        self.coarse_side = coarse_side(grid_stride)
        self.coarse_weight, self.norm_weight = config.map_coarse_weight, config.map_norm_weight
        self.score_from = config.score_from

        def distance() -> MahalanobisDistance:
            return MahalanobisDistance(
                num_routes,
                channels,
                math.prod(grid_size),
                local=config.map_distance == "local_mahalanobis",
                shrinkage=config.map_shrinkage,
            )

        wants_coarse = config.map_coarse_weight > 0 or config.score_from != "map"
        self.fine = distance() if config.map_distance != "l2" else None
        self.coarse = distance() if wants_coarse else None
        if self.norm_weight > 0:
            self.register_buffer("norm_rms_R", torch.ones(num_routes))

    @torch.no_grad()
    def fit(self, routes: Sequence[int], errors: Iterable[Float[Tensor, "B C h w"]]) -> None:
        """Measure the distributions for `routes` on `errors` of normal images; L2 norms need none and ask for none."""
        if self.fine is None:
            return
        count, square = 0, torch.zeros((), dtype=torch.float64, device=self.fine.scale_R.device)
        for error_BChw in errors:
            self.fine.add(error_BChw)
            if self.coarse is not None:
                self.coarse.add(average_neighbourhood(error_BChw, self.coarse_side))
            if self.norm_weight > 0:
                count += error_BChw[:, 0].numel()
                square += error_BChw.double().square().sum()
        self.fine.finish(routes)
        if self.coarse is not None:
            self.coarse.finish(routes)
        if self.norm_weight > 0:
            self.norm_rms_R[list(routes)] = (square / count).sqrt().clamp_min(1e-6).float()

    def forward(
        self, error_BChw: Float[Tensor, "B C h w"], route_B: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B h w"], Float[Tensor, "B h w"]]:
        """The map, and the map that the image score is taken from."""
        if self.fine is None:
            map_Bhw = error_BChw.float().norm(dim=1)
            return map_Bhw, map_Bhw
        fine_Bhw = map_Bhw = self.fine(error_BChw, route_B)
        if self.norm_weight > 0:
            norm_Bhw = error_BChw.float().norm(dim=1) / self.norm_rms_R[route_B][:, None, None]
            map_Bhw = map_Bhw + self.norm_weight * norm_Bhw
        if self.coarse is None:
            return map_Bhw, map_Bhw
        coarse_Bhw = self.coarse(average_neighbourhood(error_BChw, self.coarse_side), route_B)
        map_Bhw = map_Bhw + self.coarse_weight * coarse_Bhw
        scores = {"map": map_Bhw, "coarse": coarse_Bhw, "both": fine_Bhw + coarse_Bhw}
        return map_Bhw, scores[self.score_from]
