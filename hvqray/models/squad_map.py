"""SQUAD's anomaly map: several error maps, each in units of its own deviation on normal images, added up.

Shapes: B batch, n components, a x b a component's own grid, H x W image.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hvqray.models.map_ops import upsample_map

CONSTANT_STD = 1e-6
"""A component that varies less than this on normal images is left unscaled: that would only magnify rounding."""


class ComponentMap(nn.Module):
    """sum of weight * (component - mean) / std over the components, at image size, smoothed.

    Mean and deviation are those over all locations of normal images of all classes together: a class's own would ask
    for the class of a test image. Before `fit` they are 0 and 1.
    """

    mean_n: Tensor
    std_n: Tensor

    def __init__(
        self, names: Sequence[str], *, at_centres: Collection[str], image_size: int, smoothing_sigma: float
    ) -> None:
        """`at_centres` are those of `names` whose locations lie at the centres of their cells (`upsample_map`)."""
        super().__init__()
        self.names, self.at_centres = tuple(names), frozenset(at_centres)
        self.image_size, self.smoothing_sigma = image_size, smoothing_sigma
        self.register_buffer("mean_n", torch.zeros(len(names)))
        self.register_buffer("std_n", torch.ones(len(names)))

    @torch.no_grad()
    def fit(
        self,
        components: Iterable[tuple[Mapping[str, Tensor], float]],
        all_reduce_sum_: Callable[[Tensor], Tensor],
    ) -> None:
        """Measure mean and deviation of every component, (B, a, b), over all images and locations of all ranks, in float64;
        images count by the weight beside them."""
        sums_3n = torch.zeros(3, len(self.names), dtype=torch.float64, device=self.mean_n.device)
        count_n, total_n, square_n = sums_3n
        for parts, weight in components:
            for index, name in enumerate(self.names):
                values = parts[name].double()
                count_n[index] += weight * values.numel()
                total_n[index] += weight * values.sum()
                square_n[index] += weight * values.square().sum()
        all_reduce_sum_(sums_3n)
        assert count_n.all(), "there are no images to measure the map on"
        mean_n = total_n / count_n
        std_n = (square_n / count_n - mean_n.square()).clamp(min=0).sqrt()
        self.mean_n.copy_(mean_n)
        self.std_n.copy_(torch.where(std_n > CONSTANT_STD, std_n, 1.0))

    def normalize(
        self, components: Mapping[str, Float[Tensor, "B a b"]]
    ) -> dict[str, Float[Tensor, "B a b"]]:
        """Components in units of their deviation on normal images."""
        return {
            name: (components[name] - self.mean_n[index]) / self.std_n[index]
            for index, name in enumerate(self.names)
        }

    def forward(
        self,
        components: Mapping[str, Float[Tensor, "B a b"]],
        parts: Sequence[Mapping[str, float]],
        *,
        pool_size: int = 1,
    ) -> Float[Tensor, "B A H W"]:
        """For each of `parts` the components that it names, times its weights, added up; averaged over windows of `pool_size`."""
        drawn = {
            name: upsample_map(
                values,
                self.image_size,
                at_centres=name in self.at_centres,
                smoothing_sigma=self.smoothing_sigma,
                pool_size=pool_size,
            )
            for name, values in self.normalize(components).items()
            if any(name in weights for weights in parts)
        }
        maps = [torch.stack([w * drawn[name] for name, w in weights.items()]).sum(0) for weights in parts]
        return torch.stack(maps, dim=1)
