"""Images of a batch that differ in their routes, each by what belongs to its own.

Shapes: B batch, b images of one route, L values an image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor


def by_route(
    x_B: Float[Tensor, "B ..."],
    route_B: Int[Tensor, " B"],
    of_route: Callable[[Tensor, int], Float[Tensor, "b L"]],
    *,
    num_routes: int,
    num_values: int,
) -> Float[Tensor, "B L"]:
    """`of_route(images, route)` of the images of each route, `num_values` float32 an image, outside of any autocast.

    What belongs to a route is not gathered for every image: matrices would fill the memory, and batches seldom mix routes.
    """
    # shape, not len(): that would fix the number of images of an exported graph.
    found_BL = x_B.new_zeros((x_B.shape[0], num_values), dtype=torch.float32)
    with torch.autocast(x_B.device.type, enabled=False):
        if torch.compiler.is_exporting():  # an exported graph cannot depend on the routes that it sees
            for route in range(num_routes):
                found_BL = torch.where((route_B == route)[:, None], of_route(x_B, route), found_BL)
        else:
            for route in route_B.unique().tolist():
                images = (route_B == route).nonzero()[:, 0]
                found_BL[images] = of_route(x_B[images], route)
    return found_BL
