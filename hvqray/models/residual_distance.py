"""How large a reconstruction's error is, judged by the errors on normal images.

Shapes: B batch, C feature channels, h x w feature grid, L = h * w locations, R routes (classes, or one for all), P places:
1 where all locations share a Gaussian, L where each has its own, A alternative maps, U sources of an image's score.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hvqray.config.model_sections import ErrorMapFields
from hvqray.models.by_route import by_route
from hvqray.models.feature_codes import FeatureCodes
from hvqray.models.gaussians import (
    RIDGE,
    Moments,
    inverse_factor,
    left_out,
    mean_squares,
    oas_shrinkage,
    places_at_once,
)
from hvqray.models.map_ops import average_neighbourhood, coarse_side

PATCH_SIDE = 3
"""Locations along a side of a patch, as in PatchCore's paper."""
ROUNDING = 1e-12
"""Share of the mean square below which a variance is float32's rounding and no spread."""


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
        self._moments: Moments | None = None
        self._measured: dict[int, tuple[int, float]] = {}
        """Of the routes that `finish` was for: samples a place, and the share of a place's own covariance in what it has."""

    @torch.no_grad()
    def add(self, error_BChw: Float[Tensor, "B C h w"]) -> None:
        """Take more normal images into account, for `finish`."""
        # a location sees thousands of errors at most, all locations together sum up millions
        x_PnC = self._places(error_BChw).to(torch.float32 if self.local else torch.float64)
        if self._moments is None:
            # Sums of differences from about the mean: squares of a large mean would swallow a small variance.
            self._moments = Moments(origin_PC=x_PnC.mean(1))
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

    def _set(self, routes: Sequence[int], moments: Moments) -> None:
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
        self._measured |= dict.fromkeys(routes, (moments.count, 1 - shrinkage))
        size, squares = places_at_once(covariance_PCC), []
        blocks = zip(covariance_PCC.split(size), self.whitening_RPCC[first].split(size), strict=True)
        for covariance_pCC, whitening_pCC in blocks:
            shrunk_pCC = covariance_pCC.lerp(pooled_CC, shrinkage)
            shrunk_pCC.diagonal(dim1=1, dim2=2).add_(RIDGE)
            factor_pCC = inverse_factor(shrunk_pCC)
            whitening_pCC.copy_(factor_pCC)
            squares.append(mean_squares(factor_pCC, covariance_pCC))
        self.mean_RPC[first] = mean_PC
        self.scale_R[first] = variance.sqrt()
        # What other normal images have: those that a Gaussian was measured on lie nearer to it, the nearer the fewer they are.
        square_P = left_out(torch.cat(squares), *self._measured[first])
        self.rms_R[first] = square_P.mean().sqrt().clamp_min(1e-6)
        for route in others:
            for of_routes in self.buffers():
                of_routes[route] = of_routes[first]

    def forward(
        self, error_BChw: Float[Tensor, "B C h w"], route_B: Int[Tensor, " B"], *, measured: bool = False
    ) -> Float[Tensor, "B h w"]:
        """sqrt((r - mean)^T covariance^-1 (r - mean)) at every location over its root mean square, in float32.

        `measured`: the images are among those that their routes were measured on, and are to be judged as others would.
        """
        distance_BL = by_route(
            error_BChw,
            route_B,
            partial(self._of_route, measured=measured),
            num_routes=len(self.scale_R),
            num_values=error_BChw[0, 0].numel(),
        )
        return distance_BL.unflatten(1, error_BChw.shape[2:])

    def _of_route(self, error_BChw: Tensor, route: int, *, measured: bool) -> Float[Tensor, "B L"]:
        """The distances of images of one route."""
        x_PnC = self._places(error_BChw.float()) - self.mean_RPC[route][:, None]
        square_Pn = self._squares(x_PnC / self.scale_R[route], self.whitening_RPCC[route])
        if measured and route in self._measured:
            square_Pn = left_out(square_Pn, *self._measured[route])
        distance_Pn = square_Pn.sqrt() / self.rms_R[route]
        return distance_Pn.mT if self.local else distance_Pn.view(len(error_BChw), -1)

    def _squares(self, x_PnC: Tensor, whitening_PCC: Tensor) -> Float[Tensor, "P n"]:
        """Squared lengths of the whitened `x_PnC`."""
        size = places_at_once(x_PnC)
        blocks = zip(x_PnC.split(size), whitening_PCC.split(size), strict=True)
        return torch.cat([(x @ whitening.float().mT).square().sum(-1) for x, whitening in blocks])

    def _places(self, error_BChw: Tensor) -> Tensor:
        """Errors by place, (P, n, C): (L, B, C) where `local`, else (1, B * L, C)."""
        x_BLC = error_BChw.flatten(2).mT
        return x_BLC.transpose(0, 1) if self.local else x_BLC.reshape(1, -1, x_BLC.shape[-1])


class ErrorMap(nn.Module):
    """The size of the error at every location: its L2 norm, or its Mahalanobis distance, finely and coarsely seen.

    Coarsely, errors are averaged over 3 x 3 locations (of a finer grid over more, `coarse_side`) before their distance
    is taken, as PatchCore (Roth et al., 2022, arXiv 2106.08265) averages features: noise cancels, which serves image
    scores, and small defects blur, which harms maps. The norm may be added to the distance: it finds small defects
    better, and less of what is unusual at large; and so may the distance of the feature itself from the nearest of normal ones
    (`FeatureCodes`), finely and coarsely seen, or that of a patch of features. All are in units of their root mean square on normal images of the
    route that they were not measured on, or of all routes where it has none. There is a map for each of several weights of these, of which each route has one.
    """

    norm_rms_R: Tensor

    def __init__(
        self,
        config: ErrorMapFields,
        *,
        num_routes: int,
        channels: int,
        grid_size: tuple[int, int],
        grid_stride: int,
    ) -> None:
        super().__init__()
        self.coarse_side = coarse_side(grid_stride, grid_size[0])
        self.map_weights = config.map_weights()
        self.score_sources, self.score_code_weight = config.score_sources(), config.score_code_weight

        def distance() -> MahalanobisDistance:
            return MahalanobisDistance(
                num_routes,
                channels,
                math.prod(grid_size),
                local=config.map_distance == "local_mahalanobis",
                shrinkage=config.map_shrinkage,
            )

        self.fine = distance() if config.map_distance != "l2" else None
        self.coarse = distance() if config.measures_coarse() else None
        self.fine_codes = self.coarse_codes = None
        if any(weights.codes > 0 for weights in self.map_weights):
            self.fine_codes = FeatureCodes(num_routes, channels, config.feature_codes)
        self.patch_codes = None
        wants_patches = any(weights.patches > 0 for weights in self.map_weights)
        if config.keeps_coarse_features() or (wants_patches and self.coarse_side == PATCH_SIDE):
            self.coarse_codes = FeatureCodes(num_routes, channels, config.feature_codes)
        if wants_patches and self.coarse_side != PATCH_SIDE:
            self.patch_codes = FeatureCodes(num_routes, channels, config.feature_codes)
        self.wants_norm = any(weights.norm > 0 for weights in self.map_weights)
        if self.wants_norm:
            self.register_buffer("norm_rms_R", torch.ones(num_routes))

    @torch.no_grad()
    def fit(self, routes: Sequence[int], errors: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Measure the distributions for `routes` on normal images' errors and features, each (B, C, h, w); L2 norms need none and ask for none."""
        if self.fine is None:
            return
        count, square = 0, torch.zeros((), dtype=torch.float64, device=self.fine.scale_R.device)
        new_codes = [
            (codes, side)
            for codes, side in (
                (self.fine_codes, 1),
                (self.patch_codes, PATCH_SIDE),
                (self.coarse_codes, self.coarse_side),
            )
            if codes is not None and not codes.has(routes)
        ]
        for error_BChw, features_BChw in errors:
            for codes, side in new_codes:
                codes.add(average_neighbourhood(features_BChw, side))
            self.fine.add(error_BChw)
            if self.coarse is not None:
                self.coarse.add(average_neighbourhood(error_BChw, self.coarse_side))
            if self.wants_norm:
                count += error_BChw[:, 0].numel()
                square += error_BChw.double().square().sum()
        self.fine.finish(routes)
        if self.coarse is not None:
            self.coarse.finish(routes)
        for codes, _ in new_codes:
            codes.finish(routes)
        if self.wants_norm:
            self.norm_rms_R[list(routes)] = (square / count).sqrt().clamp_min(1e-6).float()

    def forward(
        self,
        error_BChw: Float[Tensor, "B C h w"],
        features_BChw: Float[Tensor, "B C h w"],
        route_B: Int[Tensor, " B"],
        *,
        measured: bool = False,
    ) -> tuple[Float[Tensor, "B A h w"], Float[Tensor, "B U h w"]]:
        """The map by each of the weights, and the map of each of the sources of the image's score; features as in `fit`.

        `measured`: the images are among those of `fit`, and are to be judged as others would.
        """
        if self.fine is None:
            map_B1hw = error_BChw.float().norm(dim=1, keepdim=True)
            return map_B1hw, map_B1hw
        fine_Bhw = self.fine(error_BChw, route_B, measured=measured)
        sources = {"fine": fine_Bhw}
        _, of_norm_A, of_codes_A, of_patches_A, of_coarse_A = zip(*self.map_weights, strict=True)
        beside: list[tuple[Sequence[float], Tensor]] = []
        if self.coarse is not None:
            coarse_BChw = average_neighbourhood(error_BChw, self.coarse_side)
            coarse_Bhw = self.coarse(coarse_BChw, route_B, measured=measured)
            beside.append((of_coarse_A, coarse_Bhw))
            sources |= {"coarse": coarse_Bhw, "both": fine_Bhw + coarse_Bhw}
        if self.wants_norm:
            norm_Bhw = error_BChw.float().norm(dim=1) / self.norm_rms_R[route_B][:, None, None]
            beside.append((of_norm_A, norm_Bhw))
        if self.fine_codes is not None:
            beside.append((of_codes_A, self.fine_codes(features_BChw, route_B, measured=measured)))
        if self.coarse_codes is not None:
            averaged_BChw = average_neighbourhood(features_BChw, self.coarse_side)
            code_Bhw = self.coarse_codes(averaged_BChw, route_B, measured=measured)
            beside.append(([each.coarse * each.codes for each in self.map_weights], code_Bhw))
            if self.coarse_side == PATCH_SIDE:
                beside.append((of_patches_A, code_Bhw))
            if "codes" in self.score_sources:
                sources["codes"] = sources["both"] + self.score_code_weight * code_Bhw
        if self.patch_codes is not None:
            patch_BChw = average_neighbourhood(features_BChw, PATCH_SIDE)
            beside.append((of_patches_A, self.patch_codes(patch_BChw, route_B, measured=measured)))
        maps_BAhw = torch.stack([fine_Bhw] * len(self.map_weights), dim=1)
        for weights_A, part_Bhw in beside:
            if any(weights_A):
                maps_BAhw = maps_BAhw + part_Bhw.new_tensor(weights_A)[:, None, None] * part_Bhw[:, None]
        sources["map"] = maps_BAhw[:, 0]
        return maps_BAhw, torch.stack([sources[name] for name in self.score_sources], dim=1)
