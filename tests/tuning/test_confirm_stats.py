"""Spreads over seeds: what each interval covers, checked by laws of statistics and by a slow bootstrap.

Pixel metrics have files of their own: tests/tuning/test_pixel_intervals.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from hvqray.metrics import IMAGE_METRICS
from hvqray.results.confirmation import Spread
from hvqray.training.measure import ImageScores
from hvqray.tuning.confirm_stats import differences, spreads

CLASSES = ("bolt", "cloth")
NUM_NORMAL, NUM_ANOMALOUS = 30, 20


def run(seed: int, *, classes: tuple[str, ...] = CLASSES) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flat metrics and image scores of one seed's run; the images are the same for all, the scores alike."""
    images = np.random.default_rng(100)
    own = np.random.default_rng(seed)
    labels = np.arange(NUM_NORMAL + NUM_ANOMALOUS) >= NUM_NORMAL
    scores, metrics = {}, {}
    for name in classes:
        values = images.normal(size=len(labels)) + labels + 0.3 * own.normal(size=len(labels))
        scores[name] = ImageScores(labels, values, np.arange(len(labels)))
        metrics[f"test/{name}/image_auroc"] = roc_auc_score(labels, values)
        metrics[f"test/{name}/pixel_auroc"] = own.uniform(0.8, 0.9)
    for metric in ("image_auroc", "pixel_auroc"):
        metrics[f"test/{metric}"] = np.mean([metrics[f"test/{name}/{metric}"] for name in classes])
    metrics["test/image_auroc.num_classes"] = float(len(classes))
    metrics["val/image_auroc"] = own.uniform(0.8, 0.9)
    metrics["codebook/top/use"] = 0.5
    return metrics, scores


def spreads_of(*seeds: int) -> dict[str, Spread]:
    metrics, scores = zip(*map(run, seeds), strict=True)
    return spreads(metrics, scores)


def test_means_and_standard_deviations_over_the_seeds() -> None:
    found = spreads_of(0, 1, 2)
    runs = [run(seed)[0] for seed in (0, 1, 2)]
    assert set(found) == {name for name in runs[0] if "num_classes" not in name and "codebook" not in name}
    for name, spread in found.items():
        values = [metrics[name] for metrics in runs]
        assert spread.values == values
        assert spread.mean == pytest.approx(np.mean(values))
        assert spread.std == pytest.approx(np.std(values, ddof=1))


def left_out(rng: np.random.Generator, members: np.ndarray) -> np.ndarray:
    """As many as there are, drawn with replacement from all but one."""
    return rng.choice(np.delete(members, rng.integers(len(members))), len(members))


def slow_resamples(name: str, *models: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """AUROC of a class on 3000 resamples, of runs with seeds drawn from `models` and their mean over all; the second model's is subtracted."""
    rng = np.random.default_rng(7)
    scores = {seed: run(seed)[1][name] for seeds in models for seed in seeds}
    labels = next(iter(scores.values())).is_anomalous_n
    drawn_seeds, all_seeds = [], []
    for _ in range(3000):
        normal, anomalous = (left_out(rng, np.flatnonzero(labels == label)) for label in (False, True))
        aurocs = {
            seed: (each.score_n[anomalous][:, None] > each.score_n[normal]).mean()
            for seed, each in scores.items()
        }
        means = [
            (
                np.mean(
                    [aurocs[seed] for seed in (left_out(rng, np.array(seeds)) if len(seeds) > 1 else seeds)]
                ),
                np.mean([aurocs[seed] for seed in seeds]),
            )
            for seeds in models
        ]
        signs = (1, -1)[: len(models)]
        drawn_seeds.append(sum(sign * mean[0] for sign, mean in zip(signs, means, strict=True)))
        all_seeds.append(sum(sign * mean[1] for sign, mean in zip(signs, means, strict=True)))
    return np.array(drawn_seeds), np.array(all_seeds)


def t_percentiles(values: np.ndarray, parts: list[tuple[float, int]]) -> tuple[float, float]:
    """Percentiles 2.5 and 97.5, as much further from the mean as Student's t (Welch's degrees of freedom) lies beyond the normal."""
    degrees = sum(v for v, _ in parts) ** 2 / sum(v**2 / d for v, d in parts)
    stretch = stats.t.ppf(0.975, degrees) / stats.norm.ppf(0.975)
    low, high = np.quantile(values, [0.025, 0.975])
    mean = values.mean()
    return float(mean - stretch * (mean - low)), float(mean + stretch * (high - mean))


def test_image_metrics_have_the_interval_of_a_slow_bootstrap() -> None:
    found = spreads_of(0, 1, 2)
    slow = {name: slow_resamples(name, (0, 1, 2)) for name in CLASSES}
    of_seeds = np.array(
        [[run(seed)[0][f"test/{name}/image_auroc"] for name in CLASSES] for seed in (0, 1, 2)]
    )
    for i, name in enumerate(CLASSES):
        values, even = slow[name]
        parts = [(even.var(), NUM_ANOMALOUS - 1), (of_seeds[:, i].var(ddof=1) / 3, 2)]
        spread = found[f"test/{name}/image_auroc"]
        assert (spread.low, spread.high) == pytest.approx(t_percentiles(values, parts), abs=0.015)
        assert spread.interval == "bootstrap over images and seeds"
    mean, one = found["test/image_auroc"], found["test/bolt/image_auroc"]
    assert mean.high - mean.low < one.high - one.low  # type: ignore[operator]


def test_few_images_have_an_interval_that_holds_the_truth() -> None:
    """Of 7 normal and 16 anomalous images with an AUROC of .85: percentiles of a plain bootstrap hold it in 90 % of the cases."""
    truth, num_sets = 0.85, 200
    shift = np.sqrt(2) * stats.norm.ppf(truth)
    labels = np.arange(23) >= 7
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(num_sets):
        values = rng.normal(size=23) + shift * labels
        metrics = {"test/nut/image_auroc": roc_auc_score(labels, values)}
        spread = spreads([metrics], [{"nut": ImageScores(labels, values, np.arange(23))}])[
            "test/nut/image_auroc"
        ]
        held += spread.low <= truth <= spread.high  # type: ignore[operator]
    assert 0.92 <= held / num_sets <= 0.98


@pytest.mark.parametrize("num_seeds", [2, 3])
def test_few_seeds_have_an_interval_that_holds_the_truth(num_seeds: int) -> None:
    """Crops of one photograph are always drawn together: only the seeds make a difference, and no resample lies outside of theirs."""
    rng = np.random.default_rng(0)
    num_images, num_sets = 30, 80
    labels = np.arange(2 * num_images) < num_images
    images = rng.normal(size=2 * num_images)

    def a_seed() -> ImageScores:
        values = images + labels * rng.normal(1.5, 0.3)
        return ImageScores(labels, values, np.zeros(2 * num_images, dtype=int))

    def auroc(one: ImageScores) -> float:
        return float(roc_auc_score(one.is_anomalous_n, one.score_n))

    truth = np.mean([auroc(a_seed()) for _ in range(500)])
    held = 0
    for _ in range(num_sets):
        scores = [a_seed() for _ in range(num_seeds)]
        metrics = [{"test/nut/image_auroc": auroc(one)} for one in scores]
        spread = spreads(metrics, [{"nut": one} for one in scores])["test/nut/image_auroc"]
        held += spread.low <= truth <= spread.high  # type: ignore[operator]
    assert 0.85 <= held / num_sets <= 0.98


def test_a_difference_is_that_of_the_same_images_on_every_resample() -> None:
    """Against a slow paired bootstrap; and it is narrower than two models on images of their own would leave it."""
    ours, others = [run(seed)[1] for seed in (0, 1, 2)], [run(7)[1]]
    found = differences(ours, others)
    assert set(found) == {
        f"test/{prefix}{metric}" for prefix in ("bolt/", "cloth/", "") for metric in IMAGE_METRICS
    }
    values, even = slow_resamples("bolt", (0, 1, 2), (7,))
    of_seeds = [run(seed)[0]["test/bolt/image_auroc"] for seed in (0, 1, 2)]
    parts = [(even.var(), NUM_ANOMALOUS - 1), (np.var(of_seeds, ddof=1) / 3, 2)]
    low, high = found["test/bolt/image_auroc"]
    assert (low, high) == pytest.approx(t_percentiles(values, parts), abs=0.015)
    alone = spreads_of(0, 1, 2)["test/bolt/image_auroc"]
    assert high - low < 0.7 * (alone.high - alone.low)  # type: ignore[operator]


def test_a_model_differs_from_itself_by_nothing() -> None:
    scores = [run(0)[1]]
    assert set(differences(scores, scores).values()) == {(0.0, 0.0)}


def test_where_one_side_is_undefined_there_is_no_difference() -> None:
    ours, others = run(0)[1], run(1)[1]
    others["bolt"] = replace(others["bolt"], score_n=np.full(NUM_NORMAL + NUM_ANOMALOUS, np.nan))
    assert set(differences([ours], [others])) == {f"test/cloth/{metric}" for metric in IMAGE_METRICS}


@pytest.mark.parametrize("classes", [("bolt",), ("bolt", "cloth", "pill")])
def test_scores_of_other_images_are_not_compared(classes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="other images"):
        differences([run(0)[1]], [run(1, classes=classes)[1]])
    other = run(1)[1]
    other["bolt"] = replace(other["bolt"], is_anomalous_n=~other["bolt"].is_anomalous_n)
    with pytest.raises(ValueError, match="other images"):
        differences([run(0)[1]], [other])


def test_pixel_metrics_have_student_s_interval_over_the_seeds() -> None:
    for name in ("test/pixel_auroc", "test/bolt/pixel_auroc"):
        spread = spreads_of(0, 1, 2)[name]
        expected = stats.t.interval(0.95, df=2, loc=spread.mean, scale=stats.sem(spread.values))
        assert (spread.low, spread.high) == pytest.approx(expected)
        assert spread.interval == "t over seeds"


def test_one_seed_has_no_deviation_and_is_resampled_over_images_only() -> None:
    found = spreads_of(4)
    image, pixel = found["test/image_auroc"], found["test/pixel_auroc"]
    assert image.std is None
    assert image.interval == "bootstrap over images"
    assert image.low < image.mean < image.high  # type: ignore[operator]
    assert (pixel.std, pixel.low, pixel.interval) == (None, None, None)


def test_val_has_no_interval_since_it_was_looked_at() -> None:
    spread = spreads_of(0, 1)["val/image_auroc"]
    assert spread.std is not None
    assert (spread.low, spread.high, spread.interval) == (None, None, None)


def test_what_one_seed_leaves_undefined_has_no_mean() -> None:
    metrics, scores = map(list, zip(*map(run, (0, 1)), strict=True))
    scores[1]["bolt"] = replace(scores[1]["bolt"], score_n=np.full(NUM_NORMAL + NUM_ANOMALOUS, np.nan))
    metrics[1]["test/bolt/image_auroc"] = None
    found = spreads(metrics, scores)
    assert found["test/bolt/image_auroc"].mean is None
    assert found["test/bolt/image_auroc"].interval is None
    assert found["test/cloth/image_auroc"].interval is not None
    # The mean over one class and that over two are not the same quantity.
    assert found["test/image_auroc"].interval is None


def test_the_same_runs_have_the_same_intervals() -> None:
    assert spreads_of(0, 1) == spreads_of(0, 1)


def test_images_of_a_group_are_drawn_together() -> None:
    """Every image is there five times: whoever takes them for independent gets an interval too narrow by the root of five."""
    metrics, scores = run(0, classes=("bolt",))
    once = spreads([metrics], [scores])["test/bolt/image_auroc"]
    images = scores["bolt"]
    five = {
        "bolt": ImageScores(
            np.repeat(images.is_anomalous_n, 5), np.repeat(images.score_n, 5), np.repeat(images.group_n, 5)
        )
    }
    together = spreads([metrics], [five])["test/bolt/image_auroc"]
    assert (together.low, together.high) == (once.low, once.high)
    apart = {"bolt": replace(five["bolt"], group_n=np.arange(len(five["bolt"].group_n)))}
    narrow = spreads([metrics], [apart])["test/bolt/image_auroc"]
    assert narrow.high - narrow.low < 0.7 * (once.high - once.low)  # type: ignore[operator]
