"""Histograms of each image's pixel scores, from which the pixel metrics of any resample of the images follow.

To sort all pixels anew for each of a thousand resamples would take minutes a class and a run. The histogram of a resample is
the sum of its images' histograms, each as often as it was drawn: all resamples are one matrix product. A histogram keeps
the order of pixels in different bins, and takes those within one bin for evenly mixed.

Half of the edges between bins are quantiles of the anomalous pixels' scores, half of the normal ones', since
anomalous pixels are few: bins of equally many pixels would hold most of them in a handful. Both lie closer together towards the
high scores, where AP, F1-max and AUPRO (up to FPR 0.3) are decided.

Legend: n images of one class, H x W pixels, E edges, B = E + 1 bins, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, UInt32

from hvqray.metrics.aupro import MAX_FPR, MaskRegions, area_below_ramp
from hvqray.metrics.bootstrap import Replicates, Resamples
from hvqray.metrics.per_class import PIXEL_METRICS

NUM_EDGES = 512
"""At most so many; equal ones are one. On maps of real photographs the metrics of a resample's histogram moved from those of all
images as the exact ones did, within 0.0004 (AUROC 0.00001); their 95 % intervals were 0.01 to 0.17 wide."""
_SPACING = 1.5
"""The k-th of K quantiles has a share of (k / K)**1.5 of the pixels above it; of 1, 1.5, 2 and 3 this one served all four metrics."""
_NUM_DRAWN = 200_000
"""Of more pixels so many are drawn for the normal ones' quantiles: any edges will do, so these need not be exact."""


@dataclass(frozen=True)
class PixelHistograms:
    """How many pixels of each image lie in each bin of scores, from the highest bin down."""

    normal_nB: UInt32[np.ndarray, "n B"]
    anomalous_nB: UInt32[np.ndarray, "n B"]
    overlap_nB: Float32[np.ndarray, "n B"]
    """The share of a region's pixels that lie in the bin, summed over the image's regions (`MaskRegions`)."""

    @classmethod
    def from_maps(cls, maps_nHW: Float32[np.ndarray, "n H W"], regions: MaskRegions) -> PixelHistograms:
        """Histograms of maps in which the pixel metrics are defined: all finite, with pixels of both labels."""
        num_images, num_pixels = len(maps_nHW), maps_nHW[0].size
        score_P = maps_nHW.reshape(-1)[regions.pixel_P]
        edge_E = _edges(maps_nHW.reshape(-1), regions)
        num_bins = len(edge_E) + 1
        pixels_nB = np.empty((num_images, num_bins), dtype=np.uint32)
        for image, map_HW in enumerate(maps_nHW):
            below_E = np.searchsorted(np.sort(map_HW, axis=None), edge_E)
            pixels_nB[image] = np.diff(below_E, prepend=0, append=num_pixels)[::-1]
        bin_P = len(edge_E) - np.searchsorted(edge_E, score_P, side="right")
        cell_P = regions.pixel_P // num_pixels * num_bins + bin_P

        def summed(weight_P: np.ndarray | None) -> np.ndarray:
            return np.bincount(cell_P, weight_P, num_images * num_bins).reshape(num_images, num_bins)

        anomalous_nB = summed(None).astype(np.uint32)
        return cls(
            normal_nB=pixels_nB - anomalous_nB,
            anomalous_nB=anomalous_nB,
            overlap_nB=summed(1 / regions.area_R[regions.region_P]).astype(np.float32),
        )


def resampled_pixel_metrics(
    resamples: Resamples, histograms: PixelHistograms, exact: Mapping[str, float | None]
) -> dict[str, Replicates]:
    """Each of `PIXEL_METRICS` on every resample: its `exact` value, and how far the histograms' value moves from that of all images.

    What the bins blur is much the same in both, and cancels out. Values may lie beyond 0 or 1 by as little as that. NaN where a
    resample has no pixels of one label.

    Degrees of freedom are those of the anomalous pixels, which come from the images with a defect alone; nearly all images have normal ones.
    An image with a large defect weighs more, but in AUPRO, where each region weighs the same.
    """
    normal_n, anomalous_n, regions_n = (
        nB.sum(axis=1, dtype=np.float64)
        for nB in (histograms.normal_nB, histograms.anomalous_nB, histograms.overlap_nB)
    )
    of_pixels = resamples.degrees_of_freedom(normal_n, anomalous_n)
    of_regions = resamples.degrees_of_freedom(normal_n, regions_n)
    of_all = _metrics(np.ones((1, len(normal_n)), dtype=np.int64), histograms)
    of_resamples = _metrics(resamples.counts_Rn, histograms)
    return {
        metric: Replicates(
            value + (of_resamples[metric] - of_all[metric]),
            of_regions if metric == "pixel_aupro" else of_pixels,
        )
        for metric in PIXEL_METRICS
        if (value := exact.get(metric)) is not None
    }


def _edges(score_N: Float32[np.ndarray, " N"], regions: MaskRegions) -> Float32[np.ndarray, " E"]:
    """Ascending; the lowest score of an anomalous pixel is one of them, so that what is told apart perfectly stays so."""
    drawn_M = np.arange(len(score_N))
    if len(score_N) > _NUM_DRAWN:
        drawn_M = np.random.default_rng(0).integers(len(score_N), size=_NUM_DRAWN)
    normal = score_N[drawn_M][~regions.is_anomalous()[drawn_M]]
    num_quantiles = NUM_EDGES // 2
    share_K = (np.arange(1, num_quantiles + 1) / num_quantiles) ** _SPACING
    edges = [
        ascending[len(ascending) - np.ceil(share_K * len(ascending)).astype(int)]
        for ascending in (np.sort(score_N[regions.pixel_P]), np.sort(normal))
        if len(ascending)  # few normal pixels may all be missed
    ]
    return np.unique(np.concatenate(edges))


def _metrics(
    counts_Rn: Int[np.ndarray, "R n"], histograms: PixelHistograms
) -> dict[str, Float[np.ndarray, " R"]]:
    """As `pixel_metrics` defines them, with pixels of one bin evenly mixed."""
    weights_Rn = counts_Rn.astype(np.float64)  # for a fast product
    normal_RB, anomalous_RB, overlap_RB = (
        weights_Rn @ nB for nB in (histograms.normal_nB, histograms.anomalous_nB, histograms.overlap_nB)
    )
    # Called anomalous down to the end of each bin, wrongly and rightly.
    false_RB, true_RB = normal_RB.cumsum(axis=1), anomalous_RB.cumsum(axis=1)
    negatives_R1, positives_R1 = false_RB[:, -1:], true_RB[:, -1:]
    # A bin's p anomalous pixels come after 1 / p, 2 / p ... of it: (p + 1) / 2p in the mean, so this share comes after them.
    after_RB = (1 - 1 / np.maximum(anomalous_RB, 1)) / 2
    found_RB = true_RB - after_RB * anomalous_RB
    called_RB = np.maximum(found_RB + false_RB - after_RB * normal_RB, 1)  # 0 where there are none to find
    with np.errstate(invalid="ignore"):
        recall_RB, fpr_RB = anomalous_RB / positives_R1, false_RB / negatives_R1
        halfway_fpr_RB = fpr_RB - normal_RB / negatives_R1 / 2
        area_RB = area_below_ramp(fpr_RB - normal_RB / negatives_R1, fpr_RB) / MAX_FPR
        values = (
            (recall_RB * (1 - halfway_fpr_RB)).sum(axis=1),
            (recall_RB * found_RB / called_RB).sum(axis=1),
            (2 * true_RB / (true_RB + false_RB + positives_R1)).max(axis=1),
            (overlap_RB * area_RB).sum(axis=1) / overlap_RB.sum(axis=1),
        )
    is_defined_R = (positives_R1 > 0)[:, 0] & (negatives_R1 > 0)[:, 0]
    return {
        metric: np.where(is_defined_R, values_R, np.nan)
        for metric, values_R in zip(PIXEL_METRICS, values, strict=True)
    }
