"""Evaluation gives every class's metrics, whatever the batches and the ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_doubles import CLASS_NAMES, CONTEXT, SIZE, FeatureNormModel, ThreadRank, make_split, on_ranks
from sklearn.metrics import average_precision_score, roc_auc_score

from hvqray.data.dataset import Split
from hvqray.metrics import IMAGE_METRICS, METRIC_NAMES, PIXEL_METRICS, MaskRegions
from hvqray.models.batch import Batch
from hvqray.models.interface import Prediction
from hvqray.training.communicator import SingleProcess
from hvqray.training.evaluation import Evaluator, deal
from hvqray.training.rule_choice import ChosenBy

UNEVEN = ((5, 4), (2, 2), (9, 3))


class TwoLevels(FeatureNormModel):
    """The codes of its lower level are the features' rounded second channel."""

    def codebook_sizes(self) -> dict[str, int]:
        return {"top": 16, "q0": 16}

    def predict(self, batch: Batch) -> Prediction:
        prediction = super().predict(batch)
        lower_BL = (batch.features_BChw[:, 1].flatten(1) * 2 + 8).nan_to_num().round().clamp(0, 15).long()
        return replace(prediction, codes={"top": prediction.codes["q0"], "q0": lower_BL})


def evaluate(split: Split, *, batch_size: int = 4, pixel_metrics: bool = True) -> dict[str, float | None]:
    evaluator = Evaluator(split, CONTEXT, SingleProcess(), batch_size=batch_size)
    return evaluator.evaluate(FeatureNormModel(), pixel_metrics=pixel_metrics)


def expected_maps(split: Split, positions: np.ndarray) -> np.ndarray:
    norms = torch.from_numpy(split.features(positions)).float().norm(dim=1, keepdim=True)
    return torch.nn.functional.interpolate(norms, size=(SIZE, SIZE), mode="bilinear").squeeze(1).numpy()


def test_metrics_of_every_class_and_their_means() -> None:
    split = make_split(UNEVEN)
    metrics = evaluate(split)
    for c, name in enumerate(CLASS_NAMES):
        positions = np.flatnonzero(split.class_index == c)
        maps, masks = expected_maps(split, positions), split.masks(positions)
        labels = split.is_anomalous[positions]
        assert metrics[f"val/{name}/image_auroc"] == pytest.approx(roc_auc_score(labels, maps.max((1, 2))))
        assert metrics[f"val/{name}/pixel_ap"] == pytest.approx(
            average_precision_score(masks.ravel(), maps.ravel())
        )
    for metric in METRIC_NAMES:
        of_classes = [metrics[f"val/{name}/{metric}"] for name in CLASS_NAMES]
        assert metrics[f"val/{metric}"] == pytest.approx(np.mean(of_classes))
        assert metrics[f"val/{metric}.num_classes"] == 3
    for prefix in ("", *(f"{name}/" for name in CLASS_NAMES)):
        seven = [metrics[f"val/{prefix}{metric}"] for metric in METRIC_NAMES]
        assert metrics[f"val/{prefix}mad"] == pytest.approx(np.mean(seven))
    assert metrics["val/mad.num_classes"] == 3


@pytest.mark.parametrize("world_size", [2, 5])
def test_every_rank_has_the_numbers_of_a_single_one(world_size: int) -> None:
    split = make_split(UNEVEN)
    models = [TwoLevels() for _ in range(world_size)]

    def work(rank: ThreadRank) -> dict[str, float | None]:
        return Evaluator(split, CONTEXT, rank, batch_size=4).evaluate(models[rank.rank], pixel_metrics=True)

    results = on_ranks(world_size, work)
    single = Evaluator(split, CONTEXT, SingleProcess()).evaluate(TwoLevels(), pixel_metrics=True)
    assert single["codebook/q0/perplexity_given_top"] is not None
    assert results == [single] * world_size
    assert sum(sum(model.batch_sizes) for model in models) == len(split)


def test_batch_size_changes_nothing() -> None:
    split = make_split(UNEVEN)
    assert evaluate(split, batch_size=1) == pytest.approx(evaluate(split, batch_size=100))


def test_without_pixel_metrics_they_are_absent_and_the_rest_is_the_same() -> None:
    split = make_split(UNEVEN)
    metrics, without = evaluate(split), evaluate(split, pixel_metrics=False)
    assert without == {
        name: value for name, value in metrics.items() if "pixel" not in name and "mad" not in name
    }


def test_a_missing_mask_leaves_only_its_class_without_pixel_metrics() -> None:
    metrics = evaluate(make_split(UNEVEN, unmasked=(1,)))
    for metric in PIXEL_METRICS:
        assert metrics[f"val/cloth/{metric}"] is None
        assert metrics[f"val/bolt/{metric}"] is not None
        assert metrics[f"val/{metric}.num_classes"] == 2
    assert metrics["val/cloth/image_auroc"] is not None


def test_without_a_mask_the_joint_metric_is_of_the_image_metrics() -> None:
    split = make_split(UNEVEN, unmasked=(1,))
    metrics = evaluate(split)
    of_images = [metrics[f"val/cloth/{metric}"] for metric in IMAGE_METRICS]
    assert metrics["val/cloth/mad"] == pytest.approx(np.mean(of_images))
    assert metrics["val/bolt/mad"] == evaluate(make_split(UNEVEN))["val/bolt/mad"]
    of_classes = [metrics[f"val/{name}/mad"] for name in CLASS_NAMES]
    assert metrics["val/mad"] == pytest.approx(np.mean(of_classes))
    without = evaluate(split, pixel_metrics=False)
    assert without["val/cloth/mad"] == metrics["val/cloth/mad"]
    assert {name for name in without if "mad" in name} == {"val/cloth/mad"}, "no mean of that class alone"
    unmasked = evaluate(make_split(UNEVEN, unmasked=(0, 1, 2)), pixel_metrics=False)
    assert unmasked["val/mad.num_classes"] == 3


def test_a_class_of_normal_images_only_is_undefined_and_one_without_images_absent() -> None:
    metrics = evaluate(make_split(((3, 0), (0, 0), (2, 2)), name="test"))
    assert metrics["test/bolt/image_auroc"] is None
    assert metrics["test/image_auroc"] == metrics["test/pill/image_auroc"]
    assert metrics["test/image_auroc.num_classes"] == 1
    assert metrics["test/bolt/mad"] is None
    assert metrics["test/mad"] == metrics["test/pill/mad"]
    assert metrics["test/mad.num_classes"] == 1
    assert not any("cloth" in name for name in metrics)


def test_maps_that_are_not_finite_are_undefined_and_said(caplog: pytest.LogCaptureFixture) -> None:
    split = make_split(UNEVEN)
    split.all_features[split.rows[np.flatnonzero(split.class_index == 0)[0]]] = np.nan
    metrics = evaluate(split)
    assert metrics["val/bolt/image_auroc"] is None
    assert metrics["val/bolt/pixel_aupro"] is None
    assert metrics["val/bolt/mad"] is None
    assert metrics["val/cloth/image_auroc"] is not None
    for mean in (*METRIC_NAMES, "mad"):
        assert metrics[f"val/{mean}"] is None, "without the class it would be better than with it"
        assert metrics[f"val/{mean}.num_classes"] == 2
    assert metrics["codebook/q0/use"] is not None
    assert "val/bolt" in caplog.text


def test_mask_regions_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = MaskRegions.from_masks
    monkeypatch.setattr(
        MaskRegions, "from_masks", lambda masks: calls.append(len(masks)) or original(masks), raising=True
    )
    split = make_split(UNEVEN)
    evaluator = Evaluator(split, CONTEXT, SingleProcess(), batch_size=4)
    first = evaluator.evaluate(FeatureNormModel(), pixel_metrics=True)
    assert evaluator.evaluate(FeatureNormModel(), pixel_metrics=True) == first
    of_next_trial = Evaluator(split, CONTEXT, SingleProcess(), batch_size=4)
    assert of_next_trial.evaluate(FeatureNormModel(), pixel_metrics=True) == first
    assert sorted(calls) == [4, 9, 12]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_the_mode_it_was_in(training: bool) -> None:
    model = FeatureNormModel().train(training)
    Evaluator(make_split(UNEVEN), CONTEXT, SingleProcess()).evaluate(model, pixel_metrics=False)
    assert model.training is training


def test_predictions_are_made_in_the_precision_context() -> None:
    entered = []

    @contextmanager
    def context() -> Iterator[None]:
        entered.append(True)
        yield

    evaluator = Evaluator(make_split(UNEVEN), CONTEXT, SingleProcess(), 4, precision_context=context)
    model = FeatureNormModel()
    evaluator.evaluate(model, pixel_metrics=False)
    assert len(entered) == len(model.batch_sizes) == 3 + 1 + 3


def test_images_are_read_where_the_model_needs_them() -> None:
    model = FeatureNormModel()
    model.needs_images = True
    Evaluator(make_split(UNEVEN), CONTEXT, SingleProcess()).evaluate(model, pixel_metrics=False)


def test_a_shared_codebook_is_judged_over_all_images() -> None:
    split = make_split(UNEVEN)
    values = (split.all_features[:, 0].astype(np.float32) * 2 + 8).round().clip(0, 15).astype(int)
    p = np.bincount(values.ravel()) / values.size
    p = p[p > 0]
    metrics = evaluate(split)
    assert metrics["codebook/q0/use"] == len(p) / 16
    assert metrics["codebook/q0/perplexity"] == pytest.approx(np.exp(-(p * np.log(p)).sum()))


def test_what_a_level_says_beyond_the_top_is_told_by_a_plain_loop() -> None:
    """Of images with finite scores only, over all classes and of each."""
    split = make_split(UNEVEN)
    split.all_features[split.rows[np.flatnonzero(split.class_index == 0)[0]]] = np.nan
    features = split.all_features[split.rows].astype(np.float32)
    top, lower = ((features[:, i] * 2 + 8).round().clip(0, 15) for i in (0, 1))

    def expected(members: np.ndarray) -> float:
        bits = 0.0
        pairs = list(zip(top[members].ravel().tolist(), lower[members].ravel().tolist(), strict=True))
        for pair in pairs:
            bits -= np.log2(pairs.count(pair) / sum(other[0] == pair[0] for other in pairs)) / len(pairs)
        return float(2**bits)

    metrics = Evaluator(split, CONTEXT, SingleProcess(), batch_size=4).evaluate(
        TwoLevels(), pixel_metrics=False
    )
    finite = ~np.isnan(features).any(axis=(1, 2, 3))
    assert metrics["codebook/q0/perplexity_given_top"] == pytest.approx(expected(finite))
    for c, name in enumerate(CLASS_NAMES):
        of_class = metrics[f"codebook/q0/{name}/perplexity_given_top"]
        assert of_class == pytest.approx(expected(finite & (split.class_index == c)))
    assert "codebook/top/perplexity_given_top" not in metrics


def test_accuracy_of_a_predicting_router_per_class_and_mean() -> None:
    class AllOfClass2(FeatureNormModel):
        def predict(self, batch: Batch) -> Prediction:
            return replace(super().predict(batch), routed_class_B=torch.full_like(batch.class_index_B, 2))

    split = make_split(UNEVEN)
    evaluator = Evaluator(split, CONTEXT, SingleProcess(), batch_size=4)
    metrics = evaluator.evaluate(AllOfClass2(), pixel_metrics=False)
    assert [metrics[f"val/{name}/router_accuracy"] for name in CLASS_NAMES] == [0, 0, 1]
    assert metrics["val/router_accuracy"] == pytest.approx(1 / 3)
    assert not any("router" in name for name in evaluate(split))


def test_codes_of_an_image_that_was_taken_for_another_class_count_for_that_one() -> None:
    """They are numbers in that class's codebook: at a level that all classes share, they stay with the image's own class."""

    class FirstImageForClass2(FeatureNormModel):
        def codebook_sizes(self) -> dict[str, int]:
            return {"q0": 16, "shared": 16}

        def predict(self, batch: Batch) -> Prediction:
            prediction = super().predict(batch)
            routed_B = batch.class_index_B.clone()
            routed_B[:1] = 2
            codes_BL = routed_B[:, None].expand(-1, 5) + 3 * (torch.arange(len(routed_B)) == 0)[:, None]
            return replace(prediction, codes={"q0": codes_BL, "shared": codes_BL}, routed_class_B=routed_B)

    evaluator = Evaluator(make_split(((3, 1), (0, 0), (2, 2))), CONTEXT, SingleProcess(), batch_size=8)
    model = FirstImageForClass2(codebooks_per_class=True)
    metrics = evaluator.evaluate(model, pixel_metrics=False)
    assert metrics["codebook/q0/bolt/use"] == 1 / 16, "code 0 of the three bolts that were recognised"
    assert metrics["codebook/q0/pill/use"] == 2 / 16, (
        "code 5 of the bolt and the first pill, code 2 of the others"
    )
    counted = np.array([2, 3]) / 5
    assert metrics["codebook/q0/pill/perplexity"] == pytest.approx(np.exp(-(counted * np.log(counted)).sum()))
    assert metrics["codebook/shared/bolt/use"] == 2 / 16
    assert "codebook/q0/cloth/use" not in metrics


SHARES = (0.0, 0.1, 0.9)


def aurocs(split: Split, share: float) -> list[float | None]:
    """Of each class, where all have this share."""
    metrics = Evaluator(split, CONTEXT, SingleProcess()).evaluate(
        FeatureNormModel(shares=(share,)), pixel_metrics=False
    )
    return [metrics.get(f"val/{name}/image_auroc") for name in CLASS_NAMES]


@pytest.mark.parametrize("world_size", [1, 2])
def test_each_class_gets_the_share_that_is_best_for_it(world_size: int) -> None:
    split = make_split(((9, 8), (7, 9), (8, 8)))
    by_share = np.array([aurocs(split, share) for share in SHARES], dtype=float)
    assert len({*by_share.argmax(0).tolist()}) > 1, "no single share is best for all"

    def evaluate(rank: ThreadRank) -> tuple[FeatureNormModel, dict[str, float | None]]:
        model = FeatureNormModel(shares=SHARES, num_routes=3)
        evaluator = Evaluator(split, CONTEXT, rank)
        return model, evaluator.evaluate(model, pixel_metrics=False, choose_by=ChosenBy())

    for model, metrics in on_ranks(world_size, evaluate):
        assert [metrics[f"val/{name}/image_auroc"] for name in CLASS_NAMES] == by_share.max(0).tolist()
        assert metrics["val/image_auroc"] == pytest.approx(by_share.max(0).mean())
        # What was chosen stays, and is what counts where there is no choice to make, as on test.
        again = Evaluator(split, CONTEXT, SingleProcess())
        assert again.evaluate(model, pixel_metrics=False) == metrics


def test_one_route_for_all_gets_the_share_of_the_best_mean() -> None:
    split = make_split(((9, 8), (7, 9), (8, 8)))
    means = [np.mean(aurocs(split, share)) for share in SHARES]  # type: ignore[arg-type]
    model = FeatureNormModel(shares=SHARES)
    metrics = Evaluator(split, CONTEXT, SingleProcess()).evaluate(
        model, pixel_metrics=False, choose_by=ChosenBy()
    )
    assert metrics["val/image_auroc"] == pytest.approx(max(means))
    assert model.image_score.chosen_R.tolist() == [int(np.argmax(means))]


def test_classes_are_dealt_largest_first_to_the_rank_with_the_fewest_images() -> None:
    assert deal({0: 10, 1: 50, 2: 30, 3: 25}, 2) == [[1, 0], [2, 3]]
    assert deal({0: 5}, 3) == [[0], [], []]
