"""What every model must fulfil, whatever its configuration; add a configuration to `model_cases.CASES`."""

from __future__ import annotations

import copy

import pytest
import torch
from calibrated import calibrate
from model_cases import (
    CASES,
    CHANNELS,
    CONTEXT,
    IMAGE_SIZE,
    hvq,
    make_batch,
    make_model,
    squad,
    train_steps,
    training_batches,
)
from torch import nn

from hvqray.errors import InputError
from hvqray.models.batch import Batch
from hvqray.models.build import build_model
from hvqray.models.interface import AnomalyModel


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(case: str) -> AnomalyModel:
    return make_model(CASES[case])


def as_module(model: AnomalyModel) -> nn.Module:
    assert isinstance(model, nn.Module)
    return model


def test_losses_are_finite_scalars_and_only_the_total_has_a_gradient(model: AnomalyModel) -> None:
    for objective in model.objectives:
        losses = objective.loss(make_batch(), 0.5)
        assert losses["loss"].requires_grad
        for name, value in losses.items():
            assert value.shape == ()
            assert value.isfinite()
            assert value.dtype == torch.float32
            assert name == "loss" or not value.requires_grad


def test_gradients_reach_every_parameter_of_an_objective_and_no_other(model: AnomalyModel) -> None:
    module = as_module(model)
    owned = [id(p) for objective in model.objectives for p in objective.module.parameters()]
    assert len(owned) == len(set(owned))
    assert set(owned) == {id(p) for p in module.parameters()}
    for objective in model.objectives:
        module.zero_grad(set_to_none=True)
        objective.loss(make_batch(), 0.5)["loss"].backward()
        mine = {id(p) for p in objective.module.parameters()}
        for name, parameter in module.named_parameters():
            if id(parameter) in mine:
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
                assert parameter.grad.abs().max() > 0, name
            else:
                assert parameter.grad is None, name
    assert not any(buffer.requires_grad for buffer in module.buffers())


def test_prediction_has_the_promised_shapes_types_and_codes(model: AnomalyModel) -> None:
    batch = make_batch(5, seed=7)
    prediction = model.predict(batch)
    assert prediction.maps_BHW.shape == (5, IMAGE_SIZE, IMAGE_SIZE)
    assert prediction.scores_B.shape == (5,)
    for values in (prediction.maps_BHW, prediction.scores_B):
        assert values.dtype == torch.float32
        assert values.isfinite().all()
        assert not values.requires_grad
    assert list(prediction.codes) == list(model.codebook_sizes())
    for name, codes in prediction.codes.items():
        assert codes.dtype == torch.int64
        assert codes.ndim == 2
        assert len(codes) == 5
        assert codes.min() >= 0
        assert codes.max() < model.codebook_sizes()[name]


def test_prediction_is_repeatable_and_changes_nothing(model: AnomalyModel) -> None:
    module = as_module(model)
    before = copy.deepcopy(module.state_dict())
    first, second = model.predict(make_batch()), model.predict(make_batch())
    assert torch.equal(first.maps_BHW, second.maps_BHW)
    assert torch.equal(first.scores_B, second.scores_B)
    assert module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_an_image_is_judged_the_same_alone_and_in_a_batch(model: AnomalyModel) -> None:
    batch = make_batch(4)
    assert batch.images_B3HW is not None
    together = model.predict(batch)
    for i in range(4):
        one = slice(i, i + 1)
        alone = model.predict(
            Batch(batch.features_BChw[one], batch.class_index_B[one], batch.images_B3HW[one])
        )
        torch.testing.assert_close(alone.maps_BHW[0], together.maps_BHW[i], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.scores_B[0], together.scores_B[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_costs_none_of_the_others(model: AnomalyModel, broken: float) -> None:
    calibrate(model, training_batches)
    batch = make_batch(6)
    expected = model.predict(batch)
    features = batch.features_BChw.clone()
    features[2] = broken
    seen = model.predict(Batch(features, batch.class_index_B, batch.images_B3HW))
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(seen.maps_BHW[others], expected.maps_BHW[others], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen.scores_B[others], expected.scores_B[others], rtol=1e-4, atol=1e-4)
    assert not seen.scores_B[2].isfinite()


def test_state_dict_carries_everything(case: str, model: AnomalyModel) -> None:
    train_steps(model, [make_batch(seed=1)], num_steps=3)
    calibrate(model, lambda: iter([make_batch(seed=2)]))
    other = make_model(CASES[case], seed=1, prepared=False)
    as_module(other).load_state_dict(as_module(model).state_dict())
    expected, seen = model.predict(make_batch()), other.predict(make_batch())
    assert torch.equal(seen.maps_BHW, expected.maps_BHW)
    assert torch.equal(seen.scores_B, expected.scores_B)
    for name, codes in expected.codes.items():
        assert torch.equal(seen.codes[name], codes)
    # Training goes on from it too: counters and moving averages are part of the state.
    for each in (model, other):
        train_steps(each, [make_batch(seed=3)], num_steps=3)
    for name, value in as_module(model).state_dict().items():
        assert torch.equal(as_module(other).state_dict()[name], value), name


def test_preparation_and_training_are_repeatable(case: str) -> None:
    states = []
    for _ in range(2):
        model = make_model(CASES[case])
        train_steps(model, [make_batch(seed=1)], num_steps=2)
        states.append(as_module(model).state_dict())
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name


@pytest.fixture(scope="module", params=CASES)
def trained(request: pytest.FixtureRequest) -> tuple[AnomalyModel, list[float]]:
    """A model after a short training, and its losses."""
    model = make_model(CASES[request.param])
    losses = train_steps(model, [make_batch(seed=seed) for seed in range(3)], num_steps=30)
    calibrate(model, lambda: iter([make_batch(seed=2)]))
    return model, losses


def test_loss_falls(trained: tuple[AnomalyModel, list[float]]) -> None:
    _, losses = trained
    assert sum(losses[-3:]) < 0.85 * sum(losses[:3]), losses


def test_injected_anomaly_is_scored_higher_and_where_it_is(trained: tuple[AnomalyModel, list[float]]) -> None:
    model, _ = trained
    normal = make_batch(6, seed=50)
    assert normal.images_B3HW is not None
    features, images = normal.features_BChw.clone(), normal.images_B3HW.clone()
    features[:, :, 3:5, 1:3] += 12 * torch.randn(CHANNELS, 1, 1, generator=torch.Generator().manual_seed(5))
    images[:, :, 24:40, 8:24] = 255 - images[:, :, 24:40, 8:24]
    expected = model.predict(normal)
    seen = model.predict(Batch(features, normal.class_index_B, images))
    assert (seen.scores_B > expected.scores_B).all()
    rise_BHW = seen.maps_BHW - expected.maps_BHW
    inside_B, outside_B = rise_BHW[:, 28:36, 12:20].mean((1, 2)), rise_BHW[:, :12, 30:].mean((1, 2))
    assert (inside_B > 3 * outside_B.abs()).all()


def test_bf16_autocast_gives_nearly_the_same_loss_and_map(case: str) -> None:
    model, mixed = make_model(CASES[case]), make_model(CASES[case])
    calibrate(model, training_batches)
    mixed.load_state_dict(model.state_dict())  # type: ignore[attr-defined]
    losses, predictions = {}, {}
    for name, each in (("fp32", model), ("bf16", mixed)):
        each.random.begin_step(0, rows=slice(None), num_rows=6)
        with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
            losses[name] = each.objectives[0].loss(make_batch(), 0.0)["loss"]
            prediction = predictions[name] = each.predict(make_batch())
        assert prediction.maps_BHW.dtype == prediction.scores_B.dtype == torch.float32
        assert losses[name].dtype == torch.float32
    assert losses["bf16"].item() == pytest.approx(losses["fp32"].item(), rel=0.1)
    maps = torch.stack([predictions[name].maps_BHW.flatten() for name in ("fp32", "bf16")])
    assert torch.corrcoef(maps)[0, 1] > 0.97
    scores = torch.stack([predictions[name].scores_B for name in ("fp32", "bf16")])
    assert ((scores[1] - scores[0]).abs() < 0.15 * scores[0].abs() + 0.15 * maps[0].std()).all()


def test_pool_larger_than_the_image_is_the_users_fault() -> None:
    for config in (hvq(score_pool_size=49), squad(score_pool_size=49)):
        with pytest.raises(InputError, match=r"^model\.score_pool_size: 49 exceeds the image size 48"):
            build_model(config, CONTEXT)
