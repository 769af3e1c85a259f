"""One number of an image's anomaly map, by the rule that suits its class.

What share of the map a defect covers is a product's own matter: where defects are scratches the highest value tells best, where they are
stains the mean of the highest tenth. Given several shares, each route (class) has the one that is best on `val`.

Legend: B batch, S shares, R routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hvqray.config.model_sections import ErrorMapFields
from hvqray.models.map_ops import pooled_scores


@dataclass(frozen=True)
class ScoreCandidates:
    """Image scores by each of several rules (S), of which the one chosen for an image's route counts."""

    scores_BS: Tensor
    """float32."""
    route_B: Tensor
    """int64, in [0, number of routes)."""


class ImageScore(nn.Module):
    """The pooled map's highest value, or the mean of its highest share."""

    chosen_R: Tensor

    def __init__(self, config: ErrorMapFields, *, num_routes: int) -> None:
        super().__init__()
        self.pool_size, self.fractions = config.score_pool_size, config.score_top_fractions()
        # A single rule needs no state: checkpoints of models that have one are as they were.
        persistent = len(self.fractions) > 1
        self.register_buffer("chosen_R", torch.zeros(num_routes, dtype=torch.int64), persistent=persistent)

    def forward(
        self, maps_BHW: Float[Tensor, "B H W"], route_B: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, " B"], ScoreCandidates | None]:
        """The scores by the rule of each image's route; and where there are several rules, those by every one."""
        scores_BS = pooled_scores(maps_BHW, self.pool_size, self.fractions)
        if len(self.fractions) == 1:
            return scores_BS[:, 0], None
        chosen_B = self.chosen_R[route_B]
        return scores_BS.gather(1, chosen_B[:, None])[:, 0], ScoreCandidates(scores_BS, route_B)

    def choose(self, rule_R: Sequence[int]) -> None:
        """Take rule number `rule_R[r]` for the images of route r from now on."""
        self.chosen_R.copy_(torch.tensor(rule_R, dtype=torch.int64))
