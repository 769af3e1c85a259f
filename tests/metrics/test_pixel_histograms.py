"""Replicates from histograms against the metrics of the very pixels that each resample holds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from hvqray.metrics import PIXEL_METRICS, MaskRegions, pixel_metrics
from hvqray.metrics.bootstrap import Resamples, resample_images
from hvqray.metrics.pixel_histograms import NUM_EDGES, PixelHistograms, resampled_pixel_metrics

SIZE = 24
LABELS = np.arange(12) >= 5


def drawn(*, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth maps and masks (12, 24, 24); seven images have one or two defects, small or large, not all easily seen."""
    rng = np.random.default_rng(seed)
    maps = ndimage.gaussian_filter(rng.normal(size=(12, SIZE, SIZE)), (0, 1.5, 1.5))
    maps = maps / maps.std() + 0.5 * rng.normal(size=(12, 1, 1))
    masks = np.zeros(maps.shape, dtype=np.uint8)
    for i in np.flatnonzero(LABELS):
        for corner in ((1, 2), (13, 12))[: 1 + i % 2]:
            height, width = rng.integers(2, 9, size=2)
            rows, columns = slice(corner[0], corner[0] + height), slice(corner[1], corner[1] + width)
            masks[i, rows, columns] = 1
            maps[i, rows, columns] += rng.normal(1.5, 1.0)
    return maps.astype(np.float32), masks


def histograms_of(maps: np.ndarray, masks: np.ndarray) -> tuple[PixelHistograms, dict[str, float | None]]:
    regions = MaskRegions.from_masks(masks)
    return PixelHistograms.from_maps(maps, regions), pixel_metrics(maps, regions)


def some_resamples(number: int, group_n: np.ndarray | None = None) -> Resamples:
    return resample_images(LABELS, num_resamples=number, rng=np.random.default_rng(1), group_n=group_n)


def literal_metrics(maps: np.ndarray, masks: np.ndarray) -> list[float]:
    """All but AUPRO by scikit-learn; AUPRO by the threshold at every score of the normal pixels, trapezoids up to FPR 0.3."""
    y, s = masks.ravel(), maps.ravel()
    precision, recall, _ = precision_recall_curve(y, s)
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-300)).max()
    regions = []
    for map_HW, mask_HW in zip(maps, masks, strict=True):
        labelled, count = ndimage.label(mask_HW, np.ones((3, 3)))
        regions += [np.sort(map_HW[labelled == k + 1]) for k in range(count)]
    thresholds = np.unique(s)[::-1]
    normal = np.sort(s[y == 0])
    fpr = np.append(0, 1 - np.searchsorted(normal, thresholds) / len(normal))
    pro = np.append(
        0, np.mean([1 - np.searchsorted(each, thresholds) / len(each) for each in regions], axis=0)
    )
    at = np.append(fpr[fpr < 0.3], 0.3)
    return [
        roc_auc_score(y, s),
        average_precision_score(y, s),
        f1,
        float(np.trapezoid(np.append(pro[fpr < 0.3], np.interp(0.3, fpr, pro)), at)) / 0.3,
    ]


@pytest.mark.parametrize("grouped", [False, True])
def test_replicates_are_the_metrics_of_the_resampled_pixels(grouped: bool) -> None:
    """Within 0.01 on as few pixels as these, where the replicates have standard deviations of 0.02 to 0.1."""
    maps, masks = drawn()
    resamples = some_resamples(25, np.arange(12) // 2 if grouped else None)
    found = resampled_pixel_metrics(resamples, *histograms_of(maps, masks))
    assert list(found) == list(PIXEL_METRICS)
    expected = np.array(
        [
            literal_metrics(np.repeat(maps, counts, axis=0), np.repeat(masks, counts, axis=0))
            for counts in resamples.counts_Rn
        ]
    )
    for each, expected_R in zip(found.values(), expected.T, strict=True):
        assert each.values_R == pytest.approx(expected_R, abs=0.01)
        assert expected_R.std() > 0.015


def test_each_image_once_gives_the_exact_values() -> None:
    histograms, exact = histograms_of(*drawn())
    once = Resamples(np.ones((1, 12), dtype=np.int64), LABELS, np.arange(12), np.zeros((1, 12)))
    found = resampled_pixel_metrics(once, histograms, exact)
    assert {name: each.values_R[0] for name, each in found.items()} == exact


def test_the_histograms_hold_every_pixel_and_region_once() -> None:
    maps, masks = drawn()
    histograms, _ = histograms_of(maps, masks)
    assert histograms.normal_nB.shape == histograms.anomalous_nB.shape == histograms.overlap_nB.shape
    assert histograms.normal_nB.shape[1] <= NUM_EDGES + 1
    np.testing.assert_array_equal(histograms.anomalous_nB.sum(axis=1), masks.sum(axis=(1, 2)))
    np.testing.assert_array_equal(histograms.normal_nB.sum(axis=1), (1 - masks).sum(axis=(1, 2)))
    num_regions = [ndimage.label(mask, np.ones((3, 3)))[1] for mask in masks]
    np.testing.assert_allclose(histograms.overlap_nB.sum(axis=1), num_regions, rtol=1e-5)
    # The highest pixel is in the first bin.
    highest = np.unravel_index(maps.argmax(), maps.shape)
    first_n = histograms.anomalous_nB[:, 0] if masks[highest] else histograms.normal_nB[:, 0]
    assert first_n[highest[0]] > 0


def test_pixels_that_are_told_apart_perfectly_stay_so() -> None:
    _, masks = drawn()
    noise = np.random.default_rng(0).random(masks.shape)
    found = resampled_pixel_metrics(
        some_resamples(20), *histograms_of((noise + masks).astype(np.float32), masks)
    )
    for each in found.values():
        assert each.values_R == pytest.approx(np.ones(20), abs=1e-12)


def test_constant_maps_are_one_bin() -> None:
    _, masks = drawn()
    found = resampled_pixel_metrics(
        some_resamples(20), *histograms_of(np.zeros(masks.shape, np.float32), masks)
    )
    assert found["pixel_auroc"].values_R == pytest.approx(np.full(20, 0.5))
    assert found["pixel_aupro"].values_R == pytest.approx(np.full(20, 0.15))
    assert found["pixel_ap"].values_R.std() > 0.01, "the share of anomalous pixels differs"


def test_pixels_of_one_score_count_half_against_each_other() -> None:
    """Of so few scores each has a bin of its own: AUROC, F1-max and AUPRO of a resample are then exact, ties included."""
    maps, masks = drawn()
    maps = np.round(maps.clip(-1.5, 2.5)).astype(np.float32)
    resamples = some_resamples(10)
    found = resampled_pixel_metrics(resamples, *histograms_of(maps, masks))
    for resample, counts_n in enumerate(resamples.counts_Rn):
        auroc, _, f1, aupro = literal_metrics(
            np.repeat(maps, counts_n, axis=0), np.repeat(masks, counts_n, axis=0)
        )
        values = [found[name].values_R[resample] for name in ("pixel_auroc", "pixel_f1max", "pixel_aupro")]
        assert values == pytest.approx([auroc, f1, aupro], abs=1e-6)


def test_pixels_of_one_bin_are_taken_for_evenly_mixed() -> None:
    """Average precision from two dozen bins, of which ever fewer pixels are anomalous, against that of their pixels in such an order."""
    share_nB = np.stack([np.linspace(0.95, 0.05, 24), np.full(24, 0.5)])
    anomalous_nB = (100 * share_nB).round().astype(np.uint32)
    histograms = PixelHistograms(100 - anomalous_nB, anomalous_nB, np.ones((2, 24), dtype=np.float32))
    resamples = Resamples(np.array([[2, 0], [0, 2]]), np.array([True, True]), np.arange(2), np.zeros((2, 2)))
    found = resampled_pixel_metrics(resamples, histograms, {"pixel_ap": 0.0})["pixel_ap"].values_R
    ranks, labels = [], []
    for place, number in enumerate(2 * anomalous_nB[0].astype(int)):
        for count, label in ((number, 1), (200 - number, 0)):
            ranks += [place + (1 + i) / count for i in range(count)]
            labels += [label] * count
    expected = average_precision_score(labels, -np.array(ranks)) - 0.5
    assert found[0] - found[1] == pytest.approx(expected, abs=3e-3)


def test_degrees_of_freedom_are_those_of_the_anomalous_pixels() -> None:
    """Seven of the twelve images have a defect. One that is larger than all others weighs on all metrics but AUPRO."""
    masks = np.zeros((12, SIZE, SIZE), dtype=np.uint8)
    masks[LABELS, 2:4, 2:4] = 1
    maps = np.random.default_rng(0).random(masks.shape, np.float32)

    def degrees(group_n: np.ndarray | None = None) -> list[float]:
        found = resampled_pixel_metrics(some_resamples(3, group_n), *histograms_of(maps, masks))
        return [each.degrees_of_freedom for each in found.values()]

    assert degrees() == pytest.approx([6] * 4)
    # Groups of five normal images, of three with a defect, three and one: 49 / (9 + 9 + 1) - 1
    assert degrees(np.array([0] * 5 + [1] * 3 + [2] * 3 + [3])) == pytest.approx([30 / 19] * 4)
    masks[11, 1:23, 1:23] = 1
    pixels = 22 * 22
    expected = (pixels + 6 * 4) ** 2 / (pixels**2 + 6 * 4**2) - 1
    assert 0.05 < expected < 1
    assert degrees() == pytest.approx([1, 1, 1, 6])


def test_where_a_resample_has_no_anomalous_pixel_it_is_undefined() -> None:
    maps, masks = drawn()
    masks[6:] = 0  # too small to be seen at this size: six of seven images with a defect show none
    resamples = some_resamples(200)
    found = resampled_pixel_metrics(resamples, *histograms_of(maps, masks))
    lacking_R = resamples.counts_Rn[:, 5] == 0
    assert 0 < lacking_R.sum() < 200
    for each in found.values():
        np.testing.assert_array_equal(np.isnan(each.values_R), lacking_R)


def test_what_is_undefined_on_all_images_has_no_replicates() -> None:
    histograms, exact = histograms_of(*drawn())
    found = resampled_pixel_metrics(some_resamples(3), histograms, {**exact, "pixel_ap": None})
    assert set(found) == set(PIXEL_METRICS) - {"pixel_ap"}


def test_a_few_normal_pixels_among_many_anomalous_ones() -> None:
    """So few that none is drawn for the edges."""
    masks = np.ones((2, 500, 500), dtype=np.uint8)
    masks[:, 0, 0] = 0
    maps = np.random.default_rng(0).random(masks.shape, np.float32) + masks
    histograms, exact = histograms_of(maps, masks)
    both = Resamples(np.array([[1, 1], [2, 0]]), np.ones(2, dtype=bool), np.arange(2), np.zeros((2, 2)))
    found = resampled_pixel_metrics(both, histograms, exact)
    assert found["pixel_auroc"].values_R == pytest.approx([1.0, 1.0])
