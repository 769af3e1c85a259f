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
from hvqray.metrics.bootstrap import Replicates
from hvqray.results.confirmation import Spread
from hvqray.training.measure import ImageScores
from hvqray.tuning import confirm_stats
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


def test_the_variance_of_a_mean_over_classes_is_that_of_independent_images_and_shared_seeds() -> None:
    """By which its degrees of freedom are reckoned: of M classes' images the sum over M^2, of the seeds' means the variance."""
    parts = [((0.0, 2.0), (0.4, 10.0), (0.0, 1.0, 2.0)), ((1.0, 5.0), (0.8, 5.0), (2.0, 1.0, 6.0))]
    classes = [
        confirm_stats._Combined(np.array(values), [images], [np.array(seeds)])
        for values, images, seeds in parts
    ]
    mean = confirm_stats._mean_over_classes(classes)
    assert mean.values_R.tolist() == [0.5, 3.5]
    assert mean.of_images == [(pytest.approx(0.1), 10.0), (pytest.approx(0.2), 5.0)]
    (of_seeds,) = mean.of_seeds
    assert of_seeds.tolist() == [1.0, 1.0, 4.0]
    assert confirm_stats._seed_parts(mean.of_seeds) == [(pytest.approx(1.0), 2)]


def test_a_mean_over_seeds_is_as_certain_as_the_least_certain_of_them() -> None:
    even = confirm_stats._Side([], np.full((2, 2), 0.5), 1)
    runs = [Replicates(np.array([0.1, 0.3]), 9.0), Replicates(np.array([0.2, 0.6]), 4.0)]
    found = confirm_stats._combined([even], [runs])
    assert found.values_R == pytest.approx([0.15, 0.45])
    assert found.of_images == [(pytest.approx(0.0225), 4.0)]
    assert found.of_seeds[0] == pytest.approx([0.2, 0.4])


def test_percentiles_are_stretched_from_the_mean() -> None:
    """Of two values: the median is one of them, and that end would stay where it is."""
    values = np.repeat([0.5, 0.7], [600, 400])
    one = confirm_stats._Combined(values, [(float(values.var()), 4.0)], [np.array([0.6])])
    stretch = stats.t.ppf(0.975, 4) / stats.norm.ppf(0.975)
    expected = (0.58 - 0.08 * stretch, 0.58 + 0.12 * stretch)
    assert one.interval(is_difference=False) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("num_normal", "num_anomalous", "truth", "at_most"), [(7, 16, 0.85, 0.99), (25, 60, 0.99, 1.0)]
)
def test_few_images_have_an_interval_that_holds_the_truth(
    monkeypatch: pytest.MonkeyPatch, num_normal: int, num_anomalous: int, truth: float, at_most: float
) -> None:
    """Percentiles of a plain bootstrap hold .85 of 7 and 16 images in 90 % of the cases, .99 of 25 and 60 in 80 %."""
    monkeypatch.setattr(confirm_stats, "NUM_RESAMPLES", 300)
    num_sets, num_images = 200, num_normal + num_anomalous
    shift = np.sqrt(2) * stats.norm.ppf(truth)
    labels = np.arange(num_images) >= num_normal
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(num_sets):
        values = rng.normal(size=num_images) + shift * labels
        metrics = {"test/nut/image_auroc": roc_auc_score(labels, values)}
        spread = spreads([metrics], [{"nut": ImageScores(labels, values, np.arange(num_images))}])[
            "test/nut/image_auroc"
        ]
        held += spread.low <= truth <= spread.high  # type: ignore[operator]
    assert 0.93 <= held / num_sets <= at_most


def perfect(seed: int, *, classes: int = 1) -> tuple[dict[str, Any], dict[str, ImageScores]]:
    """Every image with a defect scores far above all others."""
    rng, labels = np.random.default_rng(seed), np.arange(23) >= 7
    scores = {
        f"nut {i}": ImageScores(labels, rng.normal(size=23) + 20 * labels, np.arange(23))
        for i in range(classes)
    }
    names = ("", *(f"{name}/" for name in scores))
    return {f"test/{name}{metric}": 1.0 for name in names for metric in IMAGE_METRICS}, scores


def test_what_is_ranked_perfectly_has_an_interval_that_says_how_few_images_that_were() -> None:
    metrics, scores = perfect(0)
    one = spreads([metrics], [scores])
    for metric in IMAGE_METRICS:
        spread = one[f"test/nut 0/{metric}"]
        assert spread.high == 1.0
        assert 0.8 < spread.low < 0.95  # type: ignore[operator]
    metrics, scores = perfect(0, classes=9)
    nine = spreads([metrics], [scores])["test/image_auroc"]
    assert nine.high == 1.0
    # A third of the deviation, less skewed and with more degrees of freedom.
    assert 3 < (1 - one["test/image_auroc"].low) / (1 - nine.low) < 6  # type: ignore[operator]


def test_two_perfect_models_may_differ_all_the_same_the_less_the_more_alike_they_rank() -> None:
    (_, ours), (_, others) = perfect(0), perfect(1)
    images = ours["nut 0"]
    alike = {
        "nut 0": replace(images, score_n=images.score_n + 0.1 * np.random.default_rng(3).normal(size=23))
    }
    for metric in IMAGE_METRICS:
        (low, high), (low_alike, high_alike) = (
            differences([ours], [each])[f"test/nut 0/{metric}"] for each in (others, alike)
        )
        assert -0.25 < low < -0.05
        assert 0.05 < high < 0.25
        assert 0 < high_alike - low_alike < 0.5 * (high - low)


@pytest.mark.parametrize("num_seeds", [2, 3])
def test_few_seeds_have_an_interval_that_holds_the_truth(
    monkeypatch: pytest.MonkeyPatch, num_seeds: int
) -> None:
    """With as many images as these it is the seeds that make the difference, and no resample lies outside of theirs."""
    monkeypatch.setattr(confirm_stats, "NUM_RESAMPLES", 300)
    rng = np.random.default_rng(0)
    num_images, num_sets = 100, 80
    labels = np.arange(2 * num_images) < num_images

    def some_seeds(num_seeds: int) -> list[ImageScores]:
        images = rng.normal(size=2 * num_images)
        return [
            ImageScores(labels, images + labels * rng.normal(1.0, 0.5), np.arange(2 * num_images))
            for _ in range(num_seeds)
        ]

    def auroc(one: ImageScores) -> float:
        return float(roc_auc_score(one.is_anomalous_n, one.score_n))

    truth = np.mean([auroc(some_seeds(1)[0]) for _ in range(500)])
    held = 0
    for _ in range(num_sets):
        scores = some_seeds(num_seeds)
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


def test_a_class_that_both_rank_alike_leaves_the_mean_its_interval() -> None:
    ours, others = run(0)[1], run(1)[1]
    found = differences([ours], [others | {"cloth": ours["cloth"]}])
    assert "test/cloth/image_auroc" not in found
    low, high = found["test/image_auroc"]
    of_bolt = found["test/bolt/image_auroc"]
    assert high - low < of_bolt[1] - of_bolt[0]
    assert low < high


def test_where_nothing_differs_there_is_no_interval_rather_than_a_point() -> None:
    scores = [run(0)[1]]
    assert differences(scores, scores) == {}
    labels = np.arange(8) < 4
    constant = spreads(
        [{"test/nut/image_auroc": 0.5}], [{"nut": ImageScores(labels, np.ones(8), np.arange(8))}]
    )
    assert constant["test/nut/image_auroc"].interval is None


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


def test_of_equal_values_there_is_no_interval_rather_than_a_point() -> None:
    metrics, scores = map(list, zip(*map(run, (0, 1, 2)), strict=True))
    for each in metrics:
        each["test/bolt/pixel_auroc"] = 1.0
    spread = spreads(metrics, scores)["test/bolt/pixel_auroc"]
    assert (spread.mean, spread.std, spread.low, spread.interval) == (1.0, 0.0, None, None)


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
    metrics[1]["test/cloth/image_auroc"] = None
    assert spreads(metrics, scores)["test/cloth/image_auroc"].interval is None, "of no mean"


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
    assert (together.low, together.high) == pytest.approx((once.low, once.high), abs=1e-12)
    apart = {"bolt": replace(five["bolt"], group_n=np.arange(len(five["bolt"].group_n)))}
    narrow = spreads([metrics], [apart])["test/bolt/image_auroc"]
    assert narrow.high - narrow.low < 0.7 * (once.high - once.low)  # type: ignore[operator]
