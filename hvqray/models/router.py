"""What picks the codebooks and the output expert of an image.

Shapes: B batch, C feature channels, h x w feature grid, M classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hvqray.models.batch import Batch
from hvqray.models.standardize import FeatureStandardizer

RouterMode = Literal["oracle", "predicted", "none"]


class Router(nn.Module):
    """Maps an image to one of `num_routes` sets of codebooks and output weights.

    `oracle` takes the true class, as the HVQ-Trans paper does, also at test time. `predicted` takes the true class
    in training only; in eval mode it takes the class whose prototype, the mean over its training images of the
    features averaged over the grid, is nearest in standardised channels. `none` has one route for all.
    """

    prototype_MC: Tensor

    def __init__(self, mode: RouterMode, *, num_classes: int, channels: int) -> None:
        super().__init__()
        self.mode = mode
        self.num_routes = 1 if mode == "none" else num_classes
        if mode == "predicted":
            self.standardizer = FeatureStandardizer(channels)
            self.register_buffer("prototype_MC", torch.zeros(num_classes, channels))

    @torch.no_grad()
    def fit(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Measure the prototypes, in two passes; does nothing unless `predicted`."""
        if self.mode != "predicted":
            return
        self.standardizer.fit(batches())
        total_MC = torch.zeros_like(self.prototype_MC)
        count_M = torch.zeros_like(total_MC[:, 0])
        for batch in batches():
            pooled_BC = self._pool(batch.features_BChw)
            total_MC.index_add_(0, batch.class_index_B, pooled_BC)
            count_M.index_add_(0, batch.class_index_B, torch.ones_like(pooled_BC[:, 0]))
        # A class without training images has a prototype that is never the nearest.
        self.prototype_MC.copy_(total_MC / count_M[:, None]).masked_fill_(count_M[:, None] == 0, torch.inf)

    def forward(
        self, features_BChw: Float[Tensor, "B C h w"], class_index_B: Int[Tensor, " B"]
    ) -> Int[Tensor, " B"]:
        """The route of every image, in [0, num_routes)."""
        if self.mode != "predicted" or self.training:
            return self.true_route(class_index_B)
        return (self._pool(features_BChw)[:, None] - self.prototype_MC).square().sum(-1).argmin(1)

    def true_route(self, class_index_B: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The route of every image whose class is known, as in training."""
        return torch.zeros_like(class_index_B) if self.mode == "none" else class_index_B

    def _pool(self, features_BChw: Tensor) -> Tensor:
        pooled_BC: Tensor = self.standardizer(features_BChw).mean((2, 3))
        return pooled_BC


def shared_route(route_B: Int[Tensor, " B"]) -> Int[Tensor, " #B"]:
    """The one route of all images, (1,), where they have the same; else the routes as they are.

    What is looked up by it, codebooks and weights, is then there once rather than for every image. Waits for the device.
    """
    # An exported graph cannot depend on the routes that it sees.
    if torch.compiler.is_exporting() or not (route_B == route_B[0]).all():
        return route_B
    return route_B[:1]
