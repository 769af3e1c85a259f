"""PaDiM: a Gaussian of normal features at every location, and the Mahalanobis distance from it.

Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization", 2020,
arXiv 2011.08785, section III. One model a class, as in the paper.

Shapes: n training images, B batch, C feature channels (D of them kept), h x w feature grid, L = h w locations.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hvqray.models.map_ops import average_neighbourhood

REGULARISATION = 0.01
"""Added to the diagonal of every covariance (section III-B), which gives it an inverse however few images there are."""
MAX_CHANNELS = 550
"""More channels than this are thinned out at random, as the paper does down to 100 or 550 (section IV-A)."""
_BLOCK_BYTES = 256 * 2**20


class Padim:
    """Gaussians of one class's normal features, averaged over `neighbourhood` x `neighbourhood` locations, a location each."""

    def __init__(self, *, neighbourhood: int = 1, seed: int = 0) -> None:
        self._neighbourhood, self._seed = neighbourhood, seed
        self.channels_D = torch.empty(0, dtype=torch.int64)
        self.mean_LD = torch.empty(0, 0)
        self.whitening_LDD = torch.empty(0, 0, 0)
        """Inverse of the covariance's Cholesky factor."""

    def fit(self, features_nChw: Float[Tensor, "n C h w"]) -> None:
        """Take mean and covariance at every location; any floating type, n at least 1."""
        num_images, num_channels = features_nChw.shape[:2]
        self.channels_D = _choose_channels(num_channels, self._seed).to(features_nChw.device)
        x_nDL = self._kept(features_nChw)
        num_kept, num_locations = x_nDL.shape[1:]
        self.mean_LD = x_nDL.float().new_empty(num_locations, num_kept)
        self.whitening_LDD = self.mean_LD.new_empty(num_locations, num_kept, num_kept)
        block = max(1, _BLOCK_BYTES // (8 * num_kept * max(num_images, num_kept)))
        ridge_DD = REGULARISATION * torch.eye(num_kept, dtype=torch.float64, device=x_nDL.device)
        for start in range(0, num_locations, block):
            # float64: a covariance of few images is of low rank but for the ridge
            x_lnD = x_nDL[:, :, start : start + block].permute(2, 0, 1).double()
            mean_l1D = x_lnD.mean(1, keepdim=True)
            centred_lnD = x_lnD - mean_l1D
            covariance_lDD = centred_lnD.mT @ centred_lnD / max(num_images - 1, 1) + ridge_DD
            factor_lDD = torch.linalg.cholesky(covariance_lDD)
            inverse_lDD = torch.linalg.solve_triangular(
                factor_lDD, torch.eye(num_kept, dtype=torch.float64, device=x_nDL.device), upper=False
            )
            self.mean_LD[start : start + block] = mean_l1D[:, 0].float()
            self.whitening_LDD[start : start + block] = inverse_lDD.float()

    def predict(
        self, features_BChw: Float[Tensor, "B C h w"]
    ) -> tuple[Float[Tensor, "B h w"], dict[str, Float[Tensor, " B"]]]:
        """Mahalanobis distance at every location (section III-C), float32; the paper's image score is the map's maximum."""
        x_LBD = self._kept(features_BChw).float().permute(2, 0, 1) - self.mean_LD[:, None]
        distance_LB = torch.linalg.vector_norm(x_LBD @ self.whitening_LDD.mT, dim=2)
        return distance_LB.T.unflatten(1, features_BChw.shape[2:]), {}

    def _kept(self, features_BChw: Tensor) -> Tensor:
        """(B, D, L) features of the kept channels; float32 where they were averaged, else as they came."""
        x_BDhw = features_BChw[:, self.channels_D]
        if self._neighbourhood > 1:
            x_BDhw = average_neighbourhood(x_BDhw, self._neighbourhood)
        return x_BDhw.flatten(2)


def _choose_channels(num_channels: int, seed: int) -> Tensor:
    """Indices of the channels to keep, ascending: all, or `MAX_CHANNELS` drawn without repetition."""
    if num_channels <= MAX_CHANNELS:
        return torch.arange(num_channels)
    order = torch.randperm(num_channels, generator=torch.Generator().manual_seed(seed))
    return order[:MAX_CHANNELS].sort().values
