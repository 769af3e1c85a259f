"""PatchCore: a memory of normal patches, and the distance to the nearest of them.

Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022, arXiv 2106.08265, section 3. One model a
class, as in the paper. What differs is due to the cached features, which lie on one grid, of stride 16 by default: patches
are averaged there, and not on each stage's own grid.

Shapes: n training images, B batch, C feature channels (D after reduction), h x w feature grid, L = h w locations,
P patches, K patches kept, Q queries.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hvqray.models.coreset import greedy_coreset, nearest
from hvqray.models.map_ops import average_neighbourhood

CORESET_FRACTION = 0.1
"""Share of the normal patches that are kept; the paper's results at 10 % and 1 % differ by 0.1 % of AUROC (table 1)."""
MAX_PATCHES = 4000
"""At most so many patches are kept, 5 % of the largest class of MVTec AD on a grid of 14 x 14: what more of them bring costs more than it is worth."""
MAX_CHANNELS = 1024
"""More channels are averaged in groups down to so many, as in the paper (section 3.1)."""
NUM_NEIGHBOURS = 9
"""Kept patches around the nearest one, b, that weigh the image score (section 3.3)."""


class PatchCore:
    """The kept patches of one class's normal features, averaged over `neighbourhood` x `neighbourhood` locations."""

    def __init__(self, *, neighbourhood: int = 3, seed: int = 0) -> None:
        self._neighbourhood, self._seed = neighbourhood, seed
        self.memory_KD = torch.empty(0, 0)

    def fit(self, features_nChw: Float[Tensor, "n C h w"]) -> None:
        """Choose the patches to keep; any floating type, n at least 1."""
        patches_PD = torch.cat([self._patches(block).flatten(0, 1) for block in features_nChw.split(64)])
        num_kept = min(max(round(CORESET_FRACTION * len(patches_PD)), 1), MAX_PATCHES)
        self.memory_KD = patches_PD[greedy_coreset(patches_PD, num_kept, seed=self._seed)]

    def predict(
        self, features_BChw: Float[Tensor, "B C h w"]
    ) -> tuple[Float[Tensor, "B h w"], dict[str, Float[Tensor, " B"]]]:
        """Distance to the nearest kept patch at every location, and the image score of section 3.3; float32."""
        patches_BLD = self._patches(features_BChw)
        distance_Q, nearest_Q = nearest(patches_BLD.flatten(0, 1), self.memory_KD)
        distance_BL = distance_Q.unflatten(0, patches_BLD.shape[:2])
        score_B, location_B = distance_BL.max(1)
        of_image_B = torch.arange(len(score_B), device=score_B.device)
        query_BD = patches_BLD[of_image_B, location_B]
        nearest_B = nearest_Q.unflatten(0, patches_BLD.shape[:2])[of_image_B, location_B]
        weight_B = self._weight(query_BD, nearest_B, score_B)
        return distance_BL.unflatten(1, features_BChw.shape[2:]), {"reweighted": weight_B * score_B}

    def _weight(self, query_BD: Tensor, nearest_B: Tensor, score_B: Tensor) -> Tensor:
        """1 - exp(s) / sum of exp(|query - m|) over the neighbours m of the nearest patch (equation 7).

        The nearest patch is one of its own neighbours, so that the weight lies in [0, 1).
        """
        if len(self.memory_KD) == 1:
            return torch.ones_like(score_B)  # there is no neighbour to weigh by
        around_BK = torch.cdist(self.memory_KD[nearest_B], self.memory_KD)
        neighbours_Bb = around_BK.topk(min(NUM_NEIGHBOURS, len(self.memory_KD)), largest=False).indices
        distance_Bb = torch.linalg.vector_norm(query_BD[:, None] - self.memory_KD[neighbours_Bb], dim=2)
        return 1 - torch.exp(score_B - distance_Bb.logsumexp(1))

    def _patches(self, features_BChw: Tensor) -> Tensor:
        """(B, L, D) averages over each location's neighbourhood, as far as it lies on the grid."""
        x_BLC = average_neighbourhood(features_BChw, self._neighbourhood).flatten(2).mT
        if x_BLC.shape[2] > MAX_CHANNELS:
            x_BLC = F.adaptive_avg_pool1d(x_BLC, MAX_CHANNELS)
        return x_BLC
