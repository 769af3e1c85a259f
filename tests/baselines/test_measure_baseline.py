"""What is measured of a baseline: every setting, class by class, on both splits."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score
from tiny_data import SIZE, tiny_data

from hvqray.baselines import measure
from hvqray.baselines.measure import BaselineName, BaselineResult, ChosenBaseline, choose, measure_baseline
from hvqray.baselines.padim import Padim
from hvqray.metrics import IMAGE_METRICS, METRIC_NAMES, PIXEL_METRICS
from hvqray.metrics.bootstrap import resample_images
from hvqray.metrics.histogram_file import StoredHistograms
from hvqray.metrics.pixel_histograms import resampled_pixel_metrics


@pytest.mark.parametrize("grid_of_patches", [False, True])
def test_padim_by_hand(tmp_path: Path, grid_of_patches: bool) -> None:
    data = tiny_data()
    data = replace(data, context=replace(data.context, grid_of_patches=grid_of_patches))
    of_settings = {
        tuple(result.settings.values()): result
        for result in measure_baseline("padim", data, pixels_folder=tmp_path)
    }
    assert set(of_settings) == set(
        itertools.product((1, 3), (4, 0), ("maximum", "top 1%", "top 5%", "top 20%"))
    )
    results = {score: of_settings[1, 4, score].metrics for score in ("maximum", "top 5%")}
    train, test = data.splits["train"], data.splits["test"]
    for class_index, class_name in enumerate(data.context.class_names):
        of_train, of_test = (np.flatnonzero(split.class_index == class_index) for split in (train, test))
        model = Padim()
        model.fit(torch.from_numpy(train.features(of_train)))
        map_nhw, _ = model.predict(torch.from_numpy(test.features(of_test)))
        size = (SIZE, SIZE)
        large = torch.nn.functional.interpolate(
            map_nhw[:, None], size, mode="bilinear", align_corners=not grid_of_patches
        )
        maps = [ndimage.gaussian_filter(each.numpy(), 4.0, mode="nearest") for each in large[:, 0]]
        labels, masks = test.is_anomalous[of_test], test.masks(of_test)
        highest = [float(each.max()) for each in maps]
        assert of_settings[1, 4, "maximum"].test_scores[class_name] == pytest.approx(highest, abs=1e-3)
        rough = [float(each.max()) for each in large[:, 0]]
        assert of_settings[1, 0, "maximum"].test_scores[class_name] == pytest.approx(rough, abs=1e-4)
        expected = {
            "image_auroc": roc_auc_score(labels, highest),
            "image_ap": average_precision_score(labels, highest),
            "pixel_auroc": roc_auc_score(masks.ravel(), np.ravel(maps)),
        }
        for metric, value in expected.items():
            assert results["maximum"][f"test/{class_name}/{metric}"] == pytest.approx(value, abs=1e-3)
    shares = [np.sort(np.ravel(each))[-round(0.05 * SIZE * SIZE) :].mean() for each in maps]
    assert results["top 5%"][f"test/{class_name}/image_auroc"] == roc_auc_score(labels, shares)


def test_a_finer_grid_has_a_wider_neighbourhood_to_choose_from(tmp_path: Path) -> None:
    data = tiny_data()
    splits = {
        name: replace(split, all_features=split.all_features.repeat(4, axis=2).repeat(4, axis=3))
        for name, split in data.splits.items()
    }
    # 2 pixels a location would be averaged over 25 x 25, had the grid not 16 x 16.
    finer = replace(data, splits=splits, context=replace(data.context, grid_size=(16, 16)))
    found = measure_baseline("padim", finer, pixels_folder=tmp_path)
    assert {result.settings["neighbourhood"] for result in found} == {1, 3, 7}


@pytest.mark.parametrize(("name", "number"), [("padim", 16), ("patchcore", 20)])
def test_every_setting_has_all_metrics(tmp_path: Path, name: BaselineName, number: int) -> None:
    data = tiny_data()
    results = measure_baseline(name, data, pixels_folder=tmp_path)
    assert len({str(result.settings) for result in results}) == number
    for result in results:
        for split in ("val", "test"):
            for metric in (*METRIC_NAMES, "mad"):
                of_classes = [result.metrics[f"{split}/{c}/{metric}"] or 0 for c in data.context.class_names]
                assert result.metrics[f"{split}/{metric}"] == pytest.approx(np.mean(of_classes))


def histograms_of(result: BaselineResult, class_name: str) -> StoredHistograms:
    assert result.test_pixels is not None
    exact = {metric: result.metrics[f"test/{class_name}/{metric}"] for metric in PIXEL_METRICS}
    return StoredHistograms(result.test_pixels, class_name, exact)


def test_histograms_are_of_the_pixels_of_test_by_each_map_that_is_made(tmp_path: Path) -> None:
    data = tiny_data()
    results = measure_baseline("padim", data, pixels_folder=tmp_path)
    assert len({result.test_pixels for result in results}) == 4
    assert {result.test_pixels for result in results} == set(tmp_path.iterdir())
    test = data.splits["test"]
    resamples = resample_images(np.arange(8) >= 4, num_resamples=200, rng=np.random.default_rng(0))
    for result in results[::4]:
        masks = test.masks(np.flatnonzero(test.class_index == 1))
        stored = histograms_of(result, "class1")
        histograms = stored.read()
        assert histograms is not None
        np.testing.assert_array_equal(histograms.anomalous_nB.sum(axis=1), masks.sum(axis=(1, 2)))
        for metric, replicates in resampled_pixel_metrics(resamples, histograms, stored.exact).items():
            low, high = np.quantile(replicates.values_R, [0.05, 0.95])
            assert low <= stored.exact[metric] <= high  # type: ignore[operator]


def test_both_find_the_defects(tmp_path: Path) -> None:
    data = tiny_data(counts=(40,))
    names: tuple[BaselineName, ...] = ("padim", "patchcore")
    for name in names:
        results = measure_baseline(name, data, pixels_folder=tmp_path)
        best = choose(results, "val/image_auroc", "maximize")
        assert (best.metrics["test/pixel_auroc"] or 0) > 0.8


@pytest.mark.parametrize("name", ["padim", "patchcore"])
def test_images_are_measured_alike_in_however_many_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: BaselineName
) -> None:
    data = tiny_data()
    at_once = measure_baseline(name, data, pixels_folder=tmp_path)
    monkeypatch.setattr(measure, "BATCH_SIZE", 3)
    in_parts = measure_baseline(name, data, pixels_folder=tmp_path)
    for one, other in zip(at_once, in_parts, strict=True):
        assert other.metrics == pytest.approx(one.metrics, abs=1e-4)
        for class_name, scores in one.test_scores.items():
            assert other.test_scores[class_name] == pytest.approx(scores, rel=1e-4)


def test_chosen_on_test_the_splits_are_one(tmp_path: Path) -> None:
    data = tiny_data()
    data = replace(data, splits={**data.splits, "val": data.splits["test"]}, selected_on_test=True)
    metrics = measure_baseline("padim", data, pixels_folder=tmp_path)[0].metrics
    of_test = {
        name.removeprefix("test/"): value for name, value in metrics.items() if name.startswith("test/")
    }
    assert of_test == {
        name.removeprefix("val/"): value for name, value in metrics.items() if name.startswith("val/")
    }
    assert of_test


def test_without_a_mask_there_are_no_pixel_metrics(tmp_path: Path) -> None:
    data = tiny_data()
    test = data.splits["test"]
    test = replace(test, has_mask=test.class_index != 1)
    data = replace(data, splits={**data.splits, "test": test})
    found = measure_baseline("padim", data, pixels_folder=tmp_path)[0]
    metrics = found.metrics
    of_images = [metrics[f"test/class1/{metric}"] for metric in IMAGE_METRICS]
    assert metrics["test/class1/mad"] == pytest.approx(np.mean(of_images))
    assert metrics["val/class1/mad"] != metrics["test/class1/mad"]
    assert metrics["test/class1/pixel_auroc"] is None
    assert metrics["test/class1/image_auroc"] is not None
    assert metrics["test/pixel_auroc.num_classes"] == 2
    read = {c: histograms_of(found, c).read() is not None for c in data.context.class_names}
    assert read == {"class0": True, "class1": False, "class2": True}


def test_without_test_images_there_is_val_alone(tmp_path: Path) -> None:
    data = tiny_data()
    test = data.splits["test"]
    none = replace(
        test,
        samples=(),
        **{name: getattr(test, name)[:0] for name in ("class_index", "is_anomalous", "rows", "has_mask")},
    )
    results = measure_baseline(
        "padim", replace(data, splits={**data.splits, "test": none}), pixels_folder=tmp_path
    )
    found = choose(results, "val/image_auroc", "maximize")
    assert found.settings.keys() == set(data.context.class_names)
    assert {name.partition("/")[0] for name in found.metrics} == {"val"}
    assert (found.test_scores, found.test_labels, found.test_pixels) == ({}, {}, {})


def test_scores_that_are_not_finite_are_none(tmp_path: Path) -> None:
    data = tiny_data()
    test = data.splits["test"]
    broken = int(np.flatnonzero(test.class_index == 0)[1])
    test.all_features[test.rows[broken]] = np.nan
    found = measure_baseline("padim", data, pixels_folder=tmp_path)[0]
    assert [i for i, score in enumerate(found.test_scores["class0"]) if score is None] == [1]
    assert found.metrics["test/class0/image_auroc"] is None


def result(number: int, **values: tuple[float | None, float]) -> BaselineResult:
    """A setting with pixel AP and image AUROC of each class on `val`, and its number for a pixel AP on `test`."""
    metrics: dict[str, float | None] = {}
    for name, (objective, image_auroc) in values.items():
        metrics |= {f"val/{name}/pixel_ap": objective, f"val/{name}/image_auroc": image_auroc}
        metrics[f"test/{name}/pixel_ap"] = float(number)
    defined = [objective for objective, _ in values.values() if objective is not None]
    metrics["val/pixel_ap"] = float(np.mean(defined)) if defined else None
    scores: dict[str, list[float | None]] = {name: [float(number)] for name in values}
    labels = {name: [True] for name in values}
    return BaselineResult("padim", {"number": number}, metrics, scores, labels, Path(f"{number}.npz"))


def numbers(found: ChosenBaseline) -> dict[str, tuple[object, object]]:
    """Class name to the numbers of the settings of its image score and of its map."""
    return {name: (each["number"], each["map_number"]) for name, each in found.settings.items()}


@pytest.mark.parametrize("metric", ["val/pixel_ap", "val/nut/pixel_ap"])
def test_each_class_has_its_best_setting_by_the_objective(metric: str) -> None:
    results = [result(0, nut=(0.9, 0.5), pill=(0.1, 0.9)), result(1, nut=(0.3, 0.9), pill=(0.2, 0.1))]
    found = choose(results, metric, "maximize")
    assert numbers(found) == {"nut": (1, 0), "pill": (0, 1)}, "of the image score, of the map"
    assert found.metrics["val/pixel_ap"] == pytest.approx((0.9 + 0.2) / 2)
    assert (found.metrics["test/nut/pixel_ap"], found.metrics["test/pill/pixel_ap"]) == (0, 1)
    assert found.metrics["test/pixel_ap"] == 0.5
    assert found.test_scores == {"nut": [1.0], "pill": [0.0]}
    assert (found.metrics["val/nut/image_auroc"], found.metrics["val/pill/image_auroc"]) == (0.9, 0.9)
    assert found.test_labels == {"nut": [True], "pill": [True]}
    assert found.test_pixels == {"nut": Path("0.npz"), "pill": Path("1.npz")}
    least = choose(results, metric, "minimize")
    assert numbers(least) == {"nut": (1, 1), "pill": (0, 0)}, "the image score is still the best"


def test_of_equals_image_auroc_and_then_the_mean_over_the_classes_decides() -> None:
    by_auroc = [result(0, nut=(0.7, 0.6)), result(1, nut=(0.7, 0.8)), result(2, nut=(None, 0.9))]
    assert numbers(choose(by_auroc, "val/pixel_ap", "maximize")) == {"nut": (2, 1)}
    assert numbers(choose(by_auroc, "val/pixel_ap", "minimize")) == {"nut": (2, 1)}
    by_mean = [result(n, nut=(1.0, 1.0), pill=(pill, 0.5)) for n, pill in enumerate((0.2, 0.8, 0.5))]
    assert numbers(choose(by_mean, "val/pixel_ap", "maximize"))["nut"][1] == 1
    undefined = [result(n, nut=(None, 0.5), pill=(pill, 0.5)) for n, pill in enumerate((0.2, 0.8))]
    found = choose(undefined, "val/pixel_ap", "maximize")
    assert numbers(found)["nut"][1] == 1
    assert found.metrics["val/nut/pixel_ap"] is None


@pytest.mark.parametrize("unmasked", [False, True])
def test_the_joint_metric_is_that_of_the_chosen_scores_and_maps(unmasked: bool) -> None:
    """By it settings are chosen by its image metrics and by its pixel metrics."""

    def setting(number: int, image_auroc: float, pixel_aupro: float) -> BaselineResult:
        images = dict.fromkeys(IMAGE_METRICS, image_auroc)
        pixels = dict.fromkeys(PIXEL_METRICS, None if unmasked else pixel_aupro)
        mad = image_auroc if unmasked else (3 * image_auroc + 4 * pixel_aupro) / 7
        metrics = {f"val/nut/{name}": value for name, value in {**images, **pixels, "mad": mad}.items()}
        return BaselineResult("padim", {"number": number}, metrics)

    found = choose([setting(0, 0.9, 0.1), setting(1, 0.5, 0.8)], "val/mad", "maximize")
    assert numbers(found) == {"nut": (0, 0 if unmasked else 1)}
    expected = 0.9 if unmasked else (3 * 0.9 + 4 * 0.8) / 7
    assert found.metrics["val/nut/mad"] == pytest.approx(expected)
    assert found.metrics["val/mad"] == pytest.approx(expected)
    assert found.metrics["val/mad.num_classes"] == 1


def test_by_the_joint_metric_the_means_of_its_kinds_decide() -> None:
    """Not image AUROC and AUPRO, which speak for the first setting."""

    def setting(number: int, *values: float) -> BaselineResult:
        names = [*IMAGE_METRICS, *PIXEL_METRICS]
        metrics = {f"val/nut/{name}": value for name, value in zip(names, values, strict=True)}
        return BaselineResult("padim", {"number": number}, metrics)

    several = [setting(0, 0.8, 0.5, 0.5, 0.5, 0.2, 0.3, 0.8), setting(1, 0.7, 0.6, 0.6, 0.6, 0.3, 0.4, 0.7)]
    assert numbers(choose(several, "val/mad", "maximize")) == {"nut": (1, 1)}
    assert numbers(choose(several, "val/image_ap", "maximize")) == {"nut": (1, 0)}
    assert numbers(choose(several, "val/pixel_ap", "maximize")) == {"nut": (0, 1)}
    assert numbers(choose(several, "val/image_auroc", "maximize")) == {"nut": (0, 0)}


def test_maps_that_are_undefined_on_test_have_no_joint_metric() -> None:
    def setting(number: int, pixel_aupro: float | None, mad: float | None) -> BaselineResult:
        metrics = {f"val/nut/{name}": 0.5 + number / 10 for name in PIXEL_METRICS}
        metrics |= {
            f"{split}/nut/{name}": 0.9 - number / 10 for split in ("val", "test") for name in IMAGE_METRICS
        }
        of_test = {**dict.fromkeys(PIXEL_METRICS, pixel_aupro), "mad": mad}
        return BaselineResult(
            "padim",
            {"number": number},
            {**metrics, **{f"test/nut/{name}": value for name, value in of_test.items()}},
        )

    found = choose([setting(0, 0.6, 0.7), setting(1, None, None)], "val/mad", "maximize")
    assert numbers(found) == {"nut": (0, 1)}
    assert found.metrics["test/nut/image_auroc"] == 0.9
    assert found.metrics["test/nut/mad"] is None
