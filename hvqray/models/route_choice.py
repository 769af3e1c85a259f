"""One of several rules for each route (class), which an evaluation on `val` chooses.

What a defect looks like is a product's own matter: where defects are scratches the highest value of a map tells best, where they are
stains the mean of the highest tenth; on fine textures the plain size of an error shows them, on aligned parts its distance from
normal errors.

Legend: B batch, S rules, A alternative maps, R routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Candidates:
    """What there is to choose from for images of a batch; the rule chosen for an image's route counts."""

    route_B: Tensor
    """int64, in [0, number of routes)."""
    scores_BS: Tensor | None
    """float32 image scores by each of several rules; None where there is one."""
    maps_BAHW: Tensor | None
    """float32 maps at image size, of each of several kinds; None where there is one."""


class RouteChoice(nn.Module):
    """Which of `num_rules` rules each route has; the first one until `choose` is called."""

    chosen_R: Tensor

    def __init__(self, num_rules: int, *, num_routes: int) -> None:
        super().__init__()
        self.num_rules = num_rules
        # A single rule needs no state: checkpoints of models that have one are as they were.
        self.register_buffer("chosen_R", torch.zeros(num_routes, dtype=torch.int64), persistent=num_rules > 1)

    def choose(self, rule_R: Sequence[int]) -> None:
        """Take rule number `rule_R[r]` for the images of route r from now on."""
        self.chosen_R.copy_(torch.tensor(rule_R, dtype=torch.int64))

    def pick(self, values_BS: Float[Tensor, "B S *rest"], route_B: Int[Tensor, " B"]) -> Tensor:
        """Of every image the value by the rule of its route, (B, *rest)."""
        if self.num_rules == 1:
            return values_BS[:, 0]
        index = self.chosen_R[route_B].view(-1, *[1] * (values_BS.ndim - 1))
        return values_BS.gather(1, index.expand(-1, 1, *values_BS.shape[2:]))[:, 0]
