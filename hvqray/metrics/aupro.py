"""AUPRO: area under the per-region overlap curve, exact with ties, as a sum over anomalous pixels.

The PRO curve plots the mean share of a region found, over regions, against the share of normal pixels that are
called anomalous (FPR); its area from FPR 0 to 0.3, by the trapezoidal rule with interpolation at 0.3, is divided by 0.3
(Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 5.1). A pixel of score s raises the curve of its
region on the way from FPR(> s) to FPR(>= s) and lies below it from there on, so its share of the area is known
from these two numbers alone, and no curve need be built.

Legend: n images, H x W pixels, P anomalous pixels, R regions, T distinct scores of anomalous pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from hvqray.metrics.ranking import Ranking

MAX_FPR = 0.3
EIGHT_CONNECTED = np.ones((3, 3), dtype=int)


@dataclass(frozen=True)
class MaskRegions:
    """Anomalous pixels of a stack of masks and the regions they belong to; depends on the masks alone, so is computed once."""

    shape: tuple[int, int, int]
    """(n, H, W)."""
    pixel_P: Int[np.ndarray, " P"]
    """Flat index of every anomalous pixel, ascending."""
    region_P: Int[np.ndarray, " P"]
    """Its region, in [0, R)."""
    area_R: Int[np.ndarray, " R"]
    """Pixels per region."""

    @classmethod
    def from_masks(cls, masks_nHW: UInt8[np.ndarray, "n H W"] | Bool[np.ndarray, "n H W"]) -> MaskRegions:
        """Regions are 8-connected components of each mask's non-zero pixels."""
        from scipy import ndimage  # imported late: a trial's first step need not wait for it

        num_images, height, width = masks_nHW.shape
        pixels, regions, num_regions = [np.empty(0, np.int64)], [np.empty(0, np.int32)], 0
        for i, mask_HW in enumerate(masks_nHW):
            if not mask_HW.any():
                continue
            labels_HW, count = ndimage.label(mask_HW, structure=EIGHT_CONNECTED)
            inside = np.flatnonzero(labels_HW)
            pixels.append(inside + i * height * width)
            regions.append(labels_HW.ravel()[inside] + np.int32(num_regions - 1))
            num_regions += count
        region_P = np.concatenate(regions)
        return cls(
            shape=(num_images, height, width),
            pixel_P=np.concatenate(pixels),
            region_P=region_P,
            area_R=np.bincount(region_P, minlength=num_regions),
        )

    def is_anomalous(self) -> Bool[np.ndarray, " pixels"]:
        """The masks again, flat."""
        flat = np.zeros(int(np.prod(self.shape)), dtype=bool)
        flat[self.pixel_P] = True
        return flat


def aupro(ranking: Ranking, regions: MaskRegions) -> float:
    """AUPRO in [0, 1] of the pixels that `ranking` orders; its positives are `regions.pixel_P`, in that order."""
    fpr_before_T = ranking.negatives_above_T / ranking.num_negatives
    fpr_after_T = ranking.negatives_from_T / ranking.num_negatives
    area_T = area_below_ramp(fpr_before_T, fpr_after_T) / MAX_FPR
    found_R = np.bincount(regions.region_P, weights=area_T[ranking.group_P], minlength=len(regions.area_R))
    return float(np.mean(found_R / regions.area_R))


def area_below_ramp(
    start: Float[np.ndarray, " *shape"], end: Float[np.ndarray, " *shape"]
) -> Float[np.ndarray, " *shape"]:
    """Area over [0, MAX_FPR] below a ramp that rises from 0 at `start` to 1 at `end` (a step where these are equal)."""
    width, room = end - start, np.maximum(MAX_FPR - start, 0)
    is_cut = (end > MAX_FPR) & (width > 0)
    return np.where(is_cut, room**2 / (2 * np.where(is_cut, width, 1)), room - width / 2)
