"""One number of an image's anomaly map, by the rule that suits its class.

Legend: B batch, U sources, S rules, F shares, H x W windows of the image.
"""

from __future__ import annotations

from itertools import product

from jaxtyping import Float
from torch import Tensor

from hvqray.config.model_sections import ErrorMapFields
from hvqray.models.map_ops import top_means
from hvqray.models.route_choice import RouteChoice


class ImageScore(RouteChoice):
    """The pooled map's highest value, or the mean of its highest share.

    Its rules are all pairs of a source, the map that the score is taken from, and a share of it.
    """

    def __init__(self, config: ErrorMapFields, *, num_routes: int) -> None:
        rules = list(product(config.score_sources(), config.score_top_fractions()))
        super().__init__(len(rules), num_routes=num_routes)
        self.rules, self.fractions = rules, config.score_top_fractions()
        self.pool_size = config.score_pool_size

    def forward(self, maps_BUHW: Float[Tensor, "B U H W"]) -> Float[Tensor, "B S"]:
        """The scores by every rule of the maps of every source, averaged over windows of `pool_size` (`upsample_map`)."""
        scores_nF = top_means(maps_BUHW.flatten(0, 1), self.fractions)
        return scores_nF.unflatten(0, (-1, maps_BUHW.shape[1])).flatten(1)
