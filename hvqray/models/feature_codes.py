"""The coreset distance: how far a feature lies from the nearest feature of a coreset of normal ones.

It is PatchCore's anomaly score of a location (Roth et al., 2022, arXiv 2106.08265), and the error of quantising the feature itself.
A reconstruction also gets right some of what it never saw; a coreset holds only features that were seen.

Shapes: B batch, C feature channels, h x w feature grid, R routes (classes, or one for all), K codes a route, n sampled features.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hvqray.models.by_route import by_route
from hvqray.models.coreset import greedy_coreset
from hvqray.models.known_distances import KnownDistances
from hvqray.models.memo import Memo, digest

FEATURES_PER_CODE = 10
"""Sampled normal features from which a code is kept, so that one in ten is, as in the paper."""
_BLOCK_SIZE = 2048

_KNOWN = Memo(most=1024, size=lambda _: 1)
"""By the features' digest and the number of codes what was kept of them: the trials of a process ask for the same."""
_DISTANCES = KnownDistances(most=2**24)
"""64 MiB: MVTec AD on a grid of 28 x 28, fine and coarse, is half of that."""


class FeatureCodes(nn.Module):
    """Distance from the nearest of a route's codes, in units of what its normal images have from codes of other images.

    The codes are features of normal images, as evenly spread as the greedy k-centre coreset makes them. They depend on the
    images alone and not on what is trained, so each route is given its own once.
    """

    codes_RKC: Tensor
    rms_R: Tensor

    def __init__(self, num_routes: int, channels: int, num_codes: int) -> None:
        super().__init__()
        self.register_buffer("codes_RKC", torch.zeros(num_routes, num_codes, channels))
        self.register_buffer("rms_R", torch.ones(num_routes))
        self._sample: _Sample | None = None
        self._measured: dict[int, float] = {}
        """Of the routes that `finish` was for: the root mean square distance of their images from all codes, their own too."""

    def has(self, routes: Sequence[int]) -> bool:
        """Whether `finish` was for all of `routes`."""
        return all(route in self._measured for route in routes)

    @torch.no_grad()
    def add(self, features_BChw: Float[Tensor, "B C h w"]) -> None:
        """Take more normal images into account, for `finish`."""
        if self._sample is None:
            self._sample = _Sample(FEATURES_PER_CODE * self.codes_RKC.shape[1])
        self._sample.add(features_BChw)

    @torch.no_grad()
    def finish(self, routes: Sequence[int]) -> None:
        """Give `routes` codes from what was added since the last time."""
        assert self._sample is not None, "nothing was added"
        sample, self._sample = self._sample, None
        num_codes = self.codes_RKC.shape[1]
        with torch.autocast(self.codes_RKC.device.type, enabled=False):
            kept_k = _spread(sample.features_nC, num_codes)
            # Fewer features than codes: some are kept more than once.
            kept_K = kept_k.repeat(-(-num_codes // len(kept_k)))[:num_codes]
            codes_KC = sample.features_nC[kept_K]
            of_all, of_others = _mean_squares(sample, codes_KC, kept_K)
        for route in routes:
            self.codes_RKC[route], self.rms_R[route] = codes_KC, max(of_others**0.5, 1e-6)
            self._measured[route] = max(of_all**0.5, 1e-6)

    def forward(
        self, features_BChw: Float[Tensor, "B C h w"], route_B: Int[Tensor, " B"], *, measured: bool = False
    ) -> Float[Tensor, "B h w"]:
        """float32; `measured`: the images are among those that codes were taken from, and are to be judged as others would."""
        x_BLC = features_BChw.float().flatten(2).mT
        distance_BL = by_route(
            x_BLC,
            route_B,
            partial(self._of_route, measured=measured),
            num_routes=len(self.rms_R),
            num_values=x_BLC.shape[1],
        )
        return distance_BL.unflatten(1, features_BChw.shape[2:])

    def _of_route(self, x_BLC: Tensor, route: int, *, measured: bool) -> Float[Tensor, "B L"]:
        distance_n = _DISTANCES(x_BLC.flatten(0, 1), self.codes_RKC[route])
        rms = self._measured[route] if measured and route in self._measured else self.rms_R[route]
        return distance_n.view(x_BLC.shape[:2]) / rms


class _Sample:
    """At most `size` features of all that are added, each as likely, and the numbers of their images."""

    def __init__(self, size: int) -> None:
        self._size, self._num_images = size, 0
        self._generator = torch.Generator().manual_seed(0)
        self._keys_n = torch.empty(0)
        self.features_nC, self.image_n = torch.empty(0, 0), torch.empty(0, dtype=torch.int64)

    def add(self, features_BChw: Float[Tensor, "B C h w"]) -> None:
        x_BLC = features_BChw.float().flatten(2).mT
        image_n = torch.arange(self._num_images, self._num_images + len(x_BLC)).repeat_interleave(
            x_BLC.shape[1]
        )
        self._num_images += len(x_BLC)
        keys_n = torch.rand(len(image_n), generator=self._generator)
        x_nC = x_BLC.flatten(0, 1)
        if len(self._keys_n):
            keys_n, image_n = torch.cat([self._keys_n, keys_n]), torch.cat([self.image_n, image_n])
            x_nC = torch.cat([self.features_nC, x_nC])
        # Those of the lowest keys are a fair sample however the images are batched; in the order in which they came.
        chosen_n = keys_n.topk(min(self._size, len(keys_n)), largest=False).indices.sort().values
        self._keys_n, self.image_n = keys_n[chosen_n], image_n[chosen_n]
        self.features_nC = x_nC[chosen_n.to(x_nC.device)]


def _spread(features_nC: Float[Tensor, "n C"], num_codes: int) -> Int[Tensor, " k"]:
    """The indices of at most `num_codes` of the features, on the CPU."""
    if num_codes >= len(features_nC):
        return torch.arange(len(features_nC))
    key = digest(features_nC), num_codes
    return _KNOWN(key, lambda: greedy_coreset(features_nC, num_codes, seed=0).cpu())


def _mean_squares(
    sample: _Sample, codes_KC: Float[Tensor, "K C"], kept_K: Int[Tensor, " K"]
) -> tuple[float, float]:
    """Mean squared distances of the sample from the nearest of all codes, and from the nearest of another image.

    `kept_K`: which of the sample's features the codes are. Where all codes are of one image, each feature counts as an
    image of its own: a code's distance from itself is mere rounding.
    """
    of_all, of_others = [], []
    centre_C = codes_KC.mean(
        0
    )  # small norms lose little where distances are found by the subtraction of squares
    origin_n = sample.image_n
    if len(origin_n[kept_K].unique()) == 1:
        origin_n = torch.arange(len(origin_n))
    origin_n = origin_n.to(codes_KC.device)
    origin_K = origin_n[kept_K.to(codes_KC.device)]
    for x_nC, of_n in zip(sample.features_nC.split(_BLOCK_SIZE), origin_n.split(_BLOCK_SIZE), strict=True):
        square_nK = torch.cdist(x_nC - centre_C, codes_KC - centre_C).square()
        of_all.append(square_nK.amin(1))
        nearest_n = square_nK.masked_fill(of_n[:, None] == origin_K, torch.inf).amin(1)
        of_others.append(nearest_n.masked_fill(nearest_n.isinf(), 0))  # of a single feature there is no other
    return float(torch.cat(of_all).mean()), float(torch.cat(of_others).mean())
