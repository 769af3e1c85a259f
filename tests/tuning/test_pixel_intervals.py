"""Intervals of pixel metrics: whole images are drawn, against a slow bootstrap that sorts the pixels of each resample again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage, stats

from hvqray.metrics import IMAGE_METRICS, PIXEL_METRICS, MaskRegions, pixel_metrics
from hvqray.metrics.bootstrap import resample_images, resampled_image_metrics
from hvqray.metrics.histogram_file import StoredHistograms, writing_histograms
from hvqray.metrics.pixel_histograms import PixelHistograms, resampled_pixel_metrics
from hvqray.results.confirmation import Spread
from hvqray.training.measure import ImageScores
from hvqray.tuning.confirm_stats import Scores, _replicates, differences, spreads

CLASSES = ("bolt", "cloth")
NUM_NORMAL, NUM_ANOMALOUS, SIZE = 8, 12, 16
NUM_IMAGES = NUM_NORMAL + NUM_ANOMALOUS
LABELS = np.arange(NUM_IMAGES) >= NUM_NORMAL
METRICS_OF_CLASSES = {
    f"test/{prefix}{metric}" for prefix in ("bolt/", "cloth/", "") for metric in PIXEL_METRICS
}


@dataclass(frozen=True)
class Run:
    """What one seed's run left of two classes."""

    maps: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    metrics: dict[str, float | None]
    scores: dict[str, ImageScores]


def run(folder: Path, seed: int, *, gain: float = 1.0, group_n: np.ndarray | None = None) -> Run:
    """The images are the same for all seeds, the maps alike; the higher the gain, the better they show defects."""
    images, own = np.random.default_rng(5), np.random.default_rng(1000 * seed + round(100 * gain))
    found = Run({}, {}, {}, {})
    path = folder / f"{seed}-{gain}.npz"
    with writing_histograms(path) as writer:
        for name in CLASSES:
            masks = np.zeros((NUM_IMAGES, SIZE, SIZE), dtype=np.uint8)
            contrast = images.normal(1.5, 1.0, size=NUM_IMAGES)
            for i in np.flatnonzero(LABELS):
                height, width = images.integers(2, 8, size=2)
                masks[i, 3 : 3 + height, 4 : 4 + width] = 1
            base = ndimage.gaussian_filter(images.normal(size=masks.shape), (0, 1, 1)) * 3
            base += 0.5 * images.normal(size=(NUM_IMAGES, 1, 1))
            maps = base + gain * contrast[:, None, None] * masks + 0.3 * own.normal(size=masks.shape)
            add(found, name, maps.astype(np.float32), masks, group_n)
            writer.add(name, PixelHistograms.from_maps(found.maps[name], MaskRegions.from_masks(masks)))
    for metric in PIXEL_METRICS:
        of_classes = [found.metrics[f"test/{name}/{metric}"] or 0.0 for name in CLASSES]
        found.metrics[f"test/{metric}"] = float(np.mean(of_classes))
    for name, images_of_class in found.scores.items():
        exact = {metric: found.metrics[f"test/{name}/{metric}"] for metric in PIXEL_METRICS}
        found.scores[name] = replace(images_of_class, pixels=StoredHistograms(path, name, exact))
    return found


def add(found: Run, name: str, maps: np.ndarray, masks: np.ndarray, group_n: np.ndarray | None) -> None:
    found.maps[name], found.masks[name] = maps, masks
    exact = pixel_metrics(maps, MaskRegions.from_masks(masks))
    found.metrics.update({f"test/{name}/{metric}": value for metric, value in exact.items()})
    groups = np.arange(NUM_IMAGES) if group_n is None else group_n
    found.scores[name] = ImageScores(LABELS, maps.max(axis=(1, 2)), groups)


def spreads_of(runs: Sequence[Run]) -> dict[str, Spread]:
    return spreads([each.metrics for each in runs], [each.scores for each in runs])


def ends(spread: Spread) -> tuple[float, float]:
    assert spread.low is not None
    assert spread.high is not None
    return spread.low, spread.high


def slow_intervals(one: Run, other: Run, name: str) -> list[dict[str, tuple[float, float]]]:
    """Of `one`, and of what it has more than `other`: percentiles of 400 resamples of images, the pixels of each sorted again, stretched to
    Student's t."""
    rng = np.random.default_rng(9)
    drawn: list[list[dict[str, float]]] = [[], []]
    for _ in range(400):
        rows = np.concatenate(
            [
                rng.choice(np.delete(members, rng.integers(len(members))), len(members))
                for members in (np.flatnonzero(~LABELS), np.flatnonzero(LABELS))
            ]
        )
        ours, theirs = (
            pixel_metrics(each.maps[name][rows], MaskRegions.from_masks(each.masks[name][rows]))
            for each in (one, other)
        )
        drawn[0].append({metric: ours[metric] or 0.0 for metric in PIXEL_METRICS})
        drawn[1].append({metric: (ours[metric] or 0.0) - (theirs[metric] or 0.0) for metric in PIXEL_METRICS})
    area_n = one.masks[name].sum(axis=(1, 2), dtype=float)
    found: list[dict[str, tuple[float, float]]] = [{}, {}]
    for intervals, resamples in zip(found, drawn, strict=True):
        for metric in PIXEL_METRICS:
            weight_n = LABELS.astype(float) if metric == "pixel_aupro" else area_n  # a region an image
            degrees = weight_n.sum() ** 2 / (weight_n**2).sum() - 1
            stretch = stats.t.ppf(0.975, degrees) / stats.norm.ppf(0.975)
            values = [each[metric] for each in resamples]
            low, high = np.quantile(values, [0.025, 0.975])
            mean = np.mean(values)
            intervals[metric] = (
                float(mean - stretch * (mean - low)),
                float(mean + stretch * (high - mean)),
            )
    return found


def test_the_interval_is_that_of_a_slow_bootstrap(tmp_path: Path) -> None:
    one, other = run(tmp_path, 0), run(tmp_path, 0, gain=0.7)
    alone, more = spreads_of([one]), differences([one.scores], [other.scores])
    assert set(alone) >= METRICS_OF_CLASSES
    assert set(more) >= METRICS_OF_CLASSES
    expected, expected_more = slow_intervals(one, other, "bolt")
    for metric in PIXEL_METRICS:
        for found, slow in (
            (ends(alone[f"test/bolt/{metric}"]), expected[metric]),
            (more[f"test/bolt/{metric}"], expected_more[metric]),
        ):
            # Ends of 400 resamples scatter by some 5 % of the width.
            assert found == pytest.approx(slow, abs=0.12 * (slow[1] - slow[0]))


def test_it_is_over_images_and_seeds_and_narrower_over_classes(tmp_path: Path) -> None:
    one, three = spreads_of([run(tmp_path, 0)]), spreads_of([run(tmp_path, seed) for seed in range(3)])
    for name in METRICS_OF_CLASSES:
        assert one[name].interval == "bootstrap over images"
        assert three[name].interval == "bootstrap over images and seeds"
        low, high = ends(three[name])
        assert low < three[name].mean < high  # type: ignore[operator]
    for metric in PIXEL_METRICS:
        of_mean, of_one = (np.diff(ends(three[f"test/{prefix}{metric}"])) for prefix in ("", "bolt/"))
        assert of_mean < of_one


def test_where_nothing_differs_there_is_no_interval_rather_than_a_point(tmp_path: Path) -> None:
    scores = [run(tmp_path, 0).scores]
    assert not METRICS_OF_CLASSES & set(differences(scores, scores))


def test_pixels_that_are_told_apart_perfectly_have_no_interval_nor_has_their_mean(tmp_path: Path) -> None:
    one = run(tmp_path, 0)
    masks = one.masks["bolt"]
    maps = (masks + 0.5 * np.random.default_rng(0).random(masks.shape)).astype(np.float32)
    add(one, "bolt", maps, masks, None)
    path = tmp_path / "perfect.npz"
    with writing_histograms(path) as writer:
        writer.add("bolt", PixelHistograms.from_maps(maps, MaskRegions.from_masks(masks)))
    one.scores["bolt"] = replace(
        one.scores["bolt"], pixels=StoredHistograms(path, "bolt", dict.fromkeys(PIXEL_METRICS, 1.0))
    )
    found = spreads_of([one])
    for metric in PIXEL_METRICS:
        assert found[f"test/bolt/{metric}"].interval is None
        assert found[f"test/{metric}"].interval is None
        assert found[f"test/cloth/{metric}"].interval == "bootstrap over images"


def test_what_makes_an_image_hard_for_both_cancels_out(tmp_path: Path) -> None:
    good, worse = run(tmp_path, 0), run(tmp_path, 0, gain=0.7)
    low, high = differences([good.scores], [worse.scores])["test/pixel_auroc"]
    alone = ends(spreads_of([good])["test/pixel_auroc"])
    won = good.metrics["test/pixel_auroc"] - worse.metrics["test/pixel_auroc"]  # type: ignore[operator]
    assert 0 < low < won < high
    assert high - low < 0.7 * np.diff(alone)


def test_images_of_a_group_are_drawn_together(tmp_path: Path) -> None:
    """Every image is there four times: whoever takes them for independent gets an interval half as wide as it is."""
    one = run(tmp_path, 0)
    images = one.scores["bolt"]
    assert images.pixels is not None
    histograms = images.pixels.read()
    assert histograms is not None
    path = tmp_path / "four.npz"
    with writing_histograms(path) as writer:
        arrays = (histograms.normal_nB, histograms.anomalous_nB, histograms.overlap_nB)
        writer.add("bolt", PixelHistograms(*(np.repeat(each, 4, axis=0) for each in arrays)))
    four = ImageScores(
        np.repeat(LABELS, 4),
        np.repeat(images.score_n, 4),
        np.repeat(images.group_n, 4),
        replace(images.pixels, path=path),
    )
    apart = replace(four, group_n=np.arange(4 * NUM_IMAGES))
    once, together, narrow = (spreads([one.metrics], [{"bolt": each}]) for each in (images, four, apart))
    for name in (f"test/bolt/{metric}" for metric in PIXEL_METRICS):
        assert ends(together[name]) == pytest.approx(ends(once[name]), abs=0.003)
        assert np.diff(ends(narrow[name])) < 0.7 * np.diff(ends(once[name]))


def test_without_a_seed_s_histograms_it_is_over_the_seeds_only(tmp_path: Path) -> None:
    """As where some runs were measured by an earlier version."""
    runs = [run(tmp_path, seed) for seed in range(3)]
    earlier = {name: replace(images, pixels=None) for name, images in runs[1].scores.items()}
    found = spreads([each.metrics for each in runs], [runs[0].scores, earlier, runs[2].scores])
    for name in METRICS_OF_CLASSES:
        spread = found[name]
        expected = stats.t.interval(0.95, df=2, loc=spread.mean, scale=stats.sem(spread.values))
        assert ends(spread) == pytest.approx(expected)
        assert spread.interval == "t over seeds"
    assert set(differences([runs[0].scores], [earlier])) == {
        f"test/{prefix}{metric}" for prefix in ("bolt/", "cloth/", "") for metric in IMAGE_METRICS
    }


def without(one: Run, class_name: str, **changes: Any) -> Scores:
    images = one.scores[class_name]
    assert images.pixels is not None
    return {**one.scores, class_name: replace(images, pixels=replace(images.pixels, **changes))}


def test_a_class_without_pixel_metrics_is_left_out_of_the_mean_as_of_the_metric(tmp_path: Path) -> None:
    """It has no histograms in the file: a mask is missing, or a map was not finite."""
    ours, other = run(tmp_path, 0), run(tmp_path, 1)
    path = tmp_path / "lacking.npz"
    with writing_histograms(path):
        pass
    unknown: dict[str, Any] = {"path": path, "exact": dict.fromkeys(PIXEL_METRICS)}
    both = differences([without(ours, "cloth", **unknown)], [without(other, "cloth", **unknown)])
    assert both["test/pixel_ap"] == both["test/bolt/pixel_ap"]
    assert "test/cloth/pixel_ap" not in both
    # Undefined on one side only: the means are of other classes.
    one = differences([ours.scores], [without(other, "cloth", **unknown)])
    assert "test/bolt/pixel_ap" in one
    assert not {"test/cloth/pixel_ap", "test/pixel_ap"} & set(one)


def test_where_resamples_lack_anomalous_pixels_there_is_no_bootstrap(tmp_path: Path) -> None:
    """All masks but one vanish at this size; then neither does the mean over the classes have one."""
    one = run(tmp_path, 0)
    masks = one.masks["bolt"] * (np.arange(NUM_IMAGES) == NUM_NORMAL)[:, None, None].astype(np.uint8)
    add(one, "bolt", one.maps["bolt"], masks, None)
    path = tmp_path / "vanished.npz"
    with writing_histograms(path) as writer:
        writer.add("bolt", PixelHistograms.from_maps(one.maps["bolt"], MaskRegions.from_masks(masks)))
    exact = {metric: one.metrics[f"test/bolt/{metric}"] for metric in PIXEL_METRICS}
    one.scores["bolt"] = replace(one.scores["bolt"], pixels=StoredHistograms(path, "bolt", exact))
    found = spreads_of([one])
    for metric in PIXEL_METRICS:
        assert found[f"test/bolt/{metric}"].interval is None
        assert found[f"test/{metric}"].interval is None
        assert found[f"test/cloth/{metric}"].interval == "bootstrap over images"


def test_without_normal_images_pixels_have_intervals_all_the_same(tmp_path: Path) -> None:
    one = run(tmp_path, 0)
    images = {
        name: replace(each, is_anomalous_n=np.ones(NUM_IMAGES, dtype=bool))
        for name, each in one.scores.items()
    }
    found = spreads([one.metrics], [images])
    assert found["test/pixel_auroc"].interval == "bootstrap over images"


def with_mad(one: Run, class_name: str, *, exact: dict[str, float | None]) -> Run:
    """`one`, of which this class has `exact` metrics, its joint one among them."""
    metrics = one.metrics | {f"test/{class_name}/{metric}": value for metric, value in exact.items()}
    scores = without(one, class_name, exact=exact)
    return replace(one, metrics=metrics, scores=dict(scores))


def test_the_joint_metric_of_a_resample_is_the_mean_of_its_seven(tmp_path: Path) -> None:
    one = run(tmp_path, 0)
    images = one.scores["bolt"]
    assert images.pixels is not None
    histograms = images.pixels.read()
    assert histograms is not None
    resamples = resample_images(LABELS, num_resamples=200, rng=np.random.default_rng(3))
    of_images = resampled_image_metrics(resamples, images.score_n)
    assert of_images is not None
    seven = of_images | resampled_pixel_metrics(resamples, histograms, images.pixels.exact)
    assert len(seven) == 7
    whole = {**images.pixels.exact, "mad": 0.8}
    found = _replicates(resamples, with_mad(one, "bolt", exact=whole).scores["bolt"])["mad"]
    np.testing.assert_allclose(found.values_R, sum(each.values_R for each in seven.values()) / 7)
    assert found.degrees_of_freedom == min(each.degrees_of_freedom for each in seven.values())
    unmasked = {**dict.fromkeys(PIXEL_METRICS), "mad": 0.8}
    found = _replicates(resamples, with_mad(one, "bolt", exact=unmasked).scores["bolt"])["mad"]
    np.testing.assert_allclose(found.values_R, sum(each.values_R for each in of_images.values()) / 3)
    for undefined in ({**images.pixels.exact, "mad": None}, images.pixels.exact):
        assert "mad" not in _replicates(resamples, with_mad(one, "bolt", exact=undefined).scores["bolt"])


def test_the_joint_metric_has_mean_deviation_and_interval_over_images_and_seeds(tmp_path: Path) -> None:
    runs = [run(tmp_path, seed) for seed in range(3)]
    values = [0.81, 0.84, 0.86]
    for name in CLASSES:
        for seed, mad in enumerate(values):
            exact = {metric: runs[seed].metrics[f"test/{name}/{metric}"] for metric in PIXEL_METRICS}
            runs[seed] = with_mad(runs[seed], name, exact={**exact, "mad": mad})
    found = spreads(
        [
            one.metrics | dict.fromkeys(("test/mad", "val/mad"), value)
            for one, value in zip(runs, values, strict=True)
        ],
        [one.scores for one in runs],
    )
    for name in ("test/bolt/mad", "test/mad"):
        assert found[name].mean == pytest.approx(np.mean(values))
        assert found[name].std == pytest.approx(np.std(values, ddof=1))
        assert found[name].interval == "bootstrap over images and seeds"
    assert found["val/mad"].interval is None
    assert found["val/mad"].values == values
    of_mean_width, of_class_width = (np.diff(ends(found[name])) for name in ("test/mad", "test/bolt/mad"))
    assert of_mean_width < of_class_width
    more = differences([runs[2].scores], [runs[0].scores])
    assert more["test/bolt/mad"][0] < more["test/bolt/mad"][1]
    without_histograms = {name: replace(images, pixels=None) for name, images in runs[0].scores.items()}
    earlier = spreads([one.metrics for one in runs], [without_histograms, runs[1].scores, runs[2].scores])
    assert earlier["test/bolt/mad"].interval == "t over seeds"
