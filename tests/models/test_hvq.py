"""HVQ-Trans: its hierarchy, routes, start, map, and what does not depend on the number of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from model_cases import (
    CHANNELS,
    CONTEXT,
    GRID,
    IMAGE_SIZE,
    hvq,
    make_batch,
    make_model,
    train_steps,
    training_batches,
)
from torch import Tensor

from hvqray.models.batch import Batch
from hvqray.models.hvq import HvqModel


def make_hvq(*, seed: int = 0, prepared: bool = True, **fields: object) -> HvqModel:
    model = make_model(hvq(**fields), seed=seed, prepared=prepared)
    assert isinstance(model, HvqModel)
    return model


def quantized_by_hand(
    state: dict[str, Tensor], level: str, x_BLD: Tensor, class_index_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Codes and indices of a level from its weights alone, in float64: the nearest code, or FSQ's formula with [5, 4, 3]."""
    weights = {
        name.removeprefix(f"network.{level}."): tensor
        for name, tensor in state.items()
        if name.startswith(f"network.{level}.")
    }
    x_BLD = x_BLD.double()
    if "codebook_MKD" in weights:
        codes_BKD = weights["codebook_MKD"].double()[class_index_B]
        indices_BL = (x_BLD[:, :, None] - codes_BKD[:, None]).square().sum(-1).argmin(-1)
        return torch.stack([codes[row] for codes, row in zip(codes_BKD, indices_BL, strict=True)]), indices_BL
    z = x_BLD @ weights["down.weight"].double().T + weights["down.bias"].double()
    # Half the reach, what is taken off and the shift that makes up for it, for L = 5, 4 and 3.
    half = torch.tensor([2 * 1.001, 1.5 * 1.001, 1 * 1.001], dtype=torch.float64)
    offset = torch.tensor([0, 0.5, 0], dtype=torch.float64)
    rounded = ((z + (offset / half).atanh()).tanh() * half - offset).round()
    indices_BL = ((rounded + torch.tensor([2, 2, 1])) * torch.tensor([1, 5, 20])).sum(-1).long()
    code = rounded / torch.tensor([2, 2, 1])
    return code @ weights["up.weight"].double().T + weights["up.bias"].double(), indices_BL


@pytest.mark.parametrize("quantizer", ["vq", "fsq", "mixed"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 6])
def test_hierarchy_quantizes_the_state_of_its_layer_beside_the_top_code(depth: int, quantizer: str) -> None:
    kinds = (["fsq", "vq"] * 4)[: depth + 1] if quantizer == "mixed" else [quantizer] * (depth + 1)
    listed = kinds if quantizer == "mixed" else quantizer
    model = make_hvq(hierarchy_depth=depth, quantizer=listed, codebook_init="normal", ot_levels=[]).eval()
    batch = make_batch()
    route_B = batch.class_index_B
    states = model.network.encode(model.standardizer(batch.features_BChw))
    latents = model.network.quantize(states, route_B)
    assert len(states) == depth + 1
    names = ["top", *(f"q{i}" for i in reversed(range(depth)))]
    sizes = {name: 8 if kind == "vq" else 60 for name, kind in zip(names, kinds, strict=True)}
    assert model.codebook_sizes() == sizes
    weights = model.state_dict()
    top_BLD, indices_BL = quantized_by_hand(weights, "top", states[depth], route_B)
    assert torch.equal(latents.top.indices_BL, indices_BL)
    torch.testing.assert_close(latents.top.quantized_BLD.double(), top_BLD, rtol=1e-4, atol=1e-5)
    for i in range(depth):
        input_BLW = torch.cat([states[i].double(), top_BLD], dim=-1)
        torch.testing.assert_close(latents.lower_input_BLW[i].double(), input_BLW, rtol=1e-4, atol=1e-5)
        expected_BLW, indices_BL = quantized_by_hand(weights, f"lower.{i}", input_BLW, route_B)
        assert torch.equal(latents.lower[i].indices_BL, indices_BL)
        torch.testing.assert_close(
            latents.lower[i].quantized_BLD.double(), expected_BLW, rtol=1e-4, atol=1e-5
        )


def test_decoder_takes_the_codes_from_the_deepest_level_up() -> None:
    model = make_hvq(hierarchy_depth=3).eval()
    taken = []
    for layer in model.network.decoder:
        layer.register_forward_pre_hook(lambda _, inputs: taken.append(inputs))
    batch = make_batch()
    _, latents = model.network(model.standardizer(batch.features_BChw), batch.class_index_B)
    for j, (x, code, _position) in enumerate(taken):
        assert torch.equal(code.tokens_BLD, latents.lower[2 - j].quantized_BLD)
        assert j > 0 or torch.equal(x, latents.lower[2].quantized_BLD)


def test_commitment_of_the_lower_levels_reaches_the_top_of_the_encoder() -> None:
    model = make_hvq(hierarchy_depth=2)
    batch = make_batch()
    states = model.network.encode(model.standardizer(batch.features_BChw))
    latents = model.network.quantize(states, batch.class_index_B)
    (gradient,) = torch.autograd.grad(latents.lower[0].commitment, states[2])
    assert gradient.abs().max() > 0


def test_loss_is_the_error_plus_the_weighted_sum_of_commitments() -> None:
    model = make_hvq(commitment_weight=0.5, dropout=0.0).eval()
    batch = make_batch()
    losses = model.loss(batch, 0.0)
    target = (batch.features_BChw - model.standardizer.mean_C[:, None, None]) / model.standardizer.std_C[
        :, None, None
    ]
    output, latents = model.network(target, batch.class_index_B)
    commitment = latents.top.commitment + latents.lower[0].commitment + latents.lower[1].commitment
    assert losses["feature_mse"].item() == pytest.approx((output - target).square().mean().item(), rel=1e-5)
    expected = (output - target).square().mean() + 0.5 * commitment
    assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_what_is_learned_from_noisy_features_are_the_clean_ones() -> None:
    model, batch = make_hvq(feature_noise=2.0, dropout=0.0), make_batch()
    passes: list[tuple[Tensor, Tensor]] = []
    model.network.register_forward_hook(lambda _, inputs, output: passes.append((inputs[0], output[0])))
    found = model.loss(batch, 0.0)["feature_mse"].item()
    ((given, made),) = passes
    clean = model.standardizer(batch.features_BChw)
    assert (given - clean).std().item() == pytest.approx(2.0, rel=0.1)
    assert found == pytest.approx((made - clean).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("codebook_init", ["kmeans", "normal"])
def test_one_step_from_the_start_leaves_codes_and_map_of_the_datas_size(codebook_init: str) -> None:
    model = make_hvq(codebook_init=codebook_init, ot_weight=80.0)
    batch = make_batch()
    train_steps(
        model, [Batch(batch.features_BChw[::3], batch.class_index_B[::3])], num_steps=1
    )  # class 0 only
    states = model.network.eval().encode(model.standardizer(batch.features_BChw))
    latents = model.network.quantize(states, batch.class_index_B)
    inputs = [latents.lower_input_BLW[0], latents.lower_input_BLW[1], states[-1]]
    for level, x_BLD in zip(model.network.vector_quantizers(), [inputs[2], *inputs[:2]], strict=True):
        largest = max(x_BLD.norm(dim=-1).max().item(), 2 * level.dim**0.5)
        assert level.codebook_MKD.isfinite().all()
        assert level.codebook_MKD.norm(dim=-1).max() < 1.5 * largest
    maps = model.predict(batch).maps_BHW
    assert maps.isfinite().all()
    assert maps.max() < 2 * 80 + 10 * CHANNELS**0.5


def test_kmeans_start_puts_every_level_close_to_its_own_tokens() -> None:
    for init, is_close in (("kmeans", True), ("normal", False)):
        model = make_hvq(codebook_init=init, codebook_size=32).eval()
        batch = make_batch(30, seed=30)
        states = model.network.encode(model.standardizer(batch.features_BChw))
        latents = model.network.quantize(states, batch.class_index_B)
        top, *lower = model.network.vector_quantizers()
        for level, x_BLD in zip((top, *lower), (states[-1], *latents.lower_input_BLW), strict=True):
            # Squared distance to the nearest code, against the distance to the image's own mean token.
            distance_B = torch.cdist(x_BLD, level.codebook_MKD[batch.class_index_B]).amin(2).square().mean(1)
            spread_B = (x_BLD - x_BLD.mean(1, keepdim=True)).square().sum(2).mean(1)
            assert ((distance_B / spread_B).mean() < 0.25) == is_close, init
            assert level.used_MK.float().mean().item() == pytest.approx(float(is_close), abs=0.1)


def test_kmeans_starts_codes_from_the_images_of_the_true_class_as_training_goes_on() -> None:
    """Whatever the prototypes say: class 0 looks half like itself and half like class 1."""

    def batches() -> Iterator[Batch]:
        for batch in training_batches():
            features, classes = batch.features_BChw.clone(), batch.class_index_B
            features[classes == 1] += 4
            features[3] += 6  # of class 0
            features[0] -= 6
            yield Batch(features, classes)

    models = [make_hvq(router=router, prepared=False) for router in ("oracle", "predicted")]
    for model in models:
        model.prepare(batches, seed=0)
    routes = torch.cat([models[1].predict(batch).routed_class_B for batch in batches()])
    classes = torch.cat([batch.class_index_B for batch in batches()])
    assert (routes != classes).any()
    for by_class, predicted in zip(*(model.network.vector_quantizers() for model in models), strict=True):
        assert torch.equal(predicted.codebook_MKD, by_class.codebook_MKD)
        assert predicted.used_MK.all()


def test_map_is_the_error_plus_the_weighted_transport_cost() -> None:
    model = make_hvq(ot_weight=3.0, ot_levels=[0, 1]).eval()
    batch = make_batch()
    features = model.standardizer(batch.features_BChw)
    with torch.no_grad():
        output, latents = model.network(features, batch.class_index_B)
    expected = (output - features).square().sum(1).sqrt()
    for i in (0, 1):
        cost = model.network.lower[i].transport_cost(latents.lower_input_BLW[i], batch.class_index_B)
        expected += 3.0 * cost.reshape(6, *GRID)
    expected = F.interpolate(
        expected[:, None], size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=True
    )
    prediction = model.predict(batch)
    torch.testing.assert_close(prediction.maps_BHW, expected[:, 0])
    torch.testing.assert_close(prediction.scores_B, F.avg_pool2d(expected, 4, 1).amax((1, 2, 3)))


def test_class_order_does_not_matter() -> None:
    """Classes renamed, with their codebooks and output weights moved along, are treated as before."""
    model, other = make_hvq(), make_hvq()
    order = torch.tensor([2, 0, 1])  # class y of `model` is class order[y] of `other`
    state = model.state_dict()
    by_class = [name for name in state if "_M" in name and not name.startswith("router")]
    assert len(by_class) == 3 * 5 + 2
    for name in by_class:
        state[name] = state[name][order.argsort()]
    other.load_state_dict(state)
    batch = make_batch()
    renamed = Batch(batch.features_BChw, order[batch.class_index_B])
    expected, seen = model.predict(batch), other.predict(renamed)
    torch.testing.assert_close(seen.maps_BHW, expected.maps_BHW)
    assert torch.equal(seen.codes["q0"], expected.codes["q0"])


def test_routes_switch_codes_and_output() -> None:
    batch = make_batch()
    swapped = Batch(batch.features_BChw, (batch.class_index_B + 1) % 3)
    for router, switches in (("oracle", True), ("predicted", False), ("none", False)):
        model = make_hvq(router=router)
        same = torch.equal(model.predict(batch).maps_BHW, model.predict(swapped).maps_BHW)
        assert same != switches, router
        assert model.codebooks_per_class == (frozenset() if router == "none" else {"top", "q1", "q0"})
        assert model.network.top.num_classes == (1 if router == "none" else 3)


def test_prediction_matches_the_oracle_where_the_router_is_right() -> None:
    oracle, predicted = make_hvq(router="oracle"), make_hvq(router="predicted")
    predicted.network.load_state_dict(oracle.network.state_dict())
    batch = make_batch(seed=60)
    torch.testing.assert_close(predicted.predict(batch).maps_BHW, oracle.predict(batch).maps_BHW)


def test_noise_is_on_the_input_in_training_only() -> None:
    model = make_hvq(feature_noise=2.0, dropout=0.0)
    seen: list[torch.Tensor] = []
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = make_batch(30)
    clean = model.standardizer(batch.features_BChw)
    model.loss(batch, 0.0)
    noise = seen.pop() - clean
    assert noise.std().item() == pytest.approx(2.0, rel=0.05)
    model.predict(batch)
    assert torch.equal(seen.pop(), clean)


def test_two_ranks_that_split_the_batch_unevenly_by_class_learn_what_one_learns() -> None:
    """Dropout, noise, gradients and codebooks: what two ranks sum up equals what one process computes."""
    fields = {"dropout": 0.3, "feature_noise": 0.2, "revive_dead_codes": True, "revive_after": 2}
    order = torch.tensor([0, 3, 1, 4, 2, 5])  # classes 0 0 1 | 1 2 2
    whole = make_batch()
    whole = Batch(whole.features_BChw[order], whole.class_index_B[order])
    parts = [slice(0, 3), slice(3, 6)]
    one, first, second = (make_hvq(**fields) for _ in range(3))
    for model in (first, second):
        model.load_state_dict(one.state_dict())
    for step in range(4):
        for model in (one, first, second):
            model.zero_grad()
        one.random.begin_step(step, rows=slice(0, 6), num_rows=6)
        one.loss(whole, 0.0)["loss"].backward()
        for model, rows in zip((first, second), parts, strict=True):
            model.random.begin_step(step, rows=rows, num_rows=6)
            model.loss(Batch(whole.features_BChw[rows], whole.class_index_B[rows]), 0.0)["loss"].backward()
        for a, b, c in zip(one.parameters(), first.parameters(), second.parameters(), strict=True):
            torch.testing.assert_close((b.grad + c.grad) / 2, a.grad, rtol=1e-4, atol=1e-5)

        sums = zip(first.network.vector_quantizers(), second.network.vector_quantizers(), strict=True)
        totals = [b.statistics_S + c.statistics_S for b, c in sums]
        one.after_step()
        for model in (first, second):
            remaining = iter(totals)
            model.all_reduce_sum_ = lambda statistics, remaining=remaining: statistics.copy_(next(remaining))
            model.after_step()
        for name, value in one.named_buffers():
            torch.testing.assert_close(first.get_buffer(name), value, rtol=1e-4, atol=1e-5)
            assert torch.equal(first.get_buffer(name), second.get_buffer(name)), name


def test_prepare_measures_the_features() -> None:
    model = make_hvq()
    x = torch.cat([batch.features_BChw for batch in training_batches()])
    torch.testing.assert_close(model.standardizer.mean_C, x.mean((0, 2, 3)))
    torch.testing.assert_close(model.standardizer.std_C, x.std((0, 2, 3), correction=0))


def test_dropout_zero_and_eval_mode_agree() -> None:
    model = make_hvq(dropout=0.0)
    batch = make_batch()
    route_B, features = batch.class_index_B, model.standardizer(batch.features_BChw)
    training, _ = model.train().network(features, route_B)
    evaluation, _ = model.eval().network(features, route_B)
    torch.testing.assert_close(training, evaluation)


@pytest.mark.parametrize(("grid_of_patches", "centre"), [(False, 47 / 5), (True, 11.5)])
def test_a_patch_is_drawn_at_its_centre_and_a_stage_corner_to_corner(
    monkeypatch: pytest.MonkeyPatch, grid_of_patches: bool, centre: float
) -> None:
    torch.manual_seed(0)
    config = hvq(quantizer="fsq", map_distance="mahalanobis", score_from="both", score_pool_size=1)
    model = HvqModel(config, replace(CONTEXT, grid_of_patches=grid_of_patches))
    hot = torch.zeros(1, *GRID)
    hot[0, 1, 1] = 1
    monkeypatch.setattr(model.error_map, "forward", lambda *_: (hot[None], 2 * hot[None]))
    prediction = model.predict(make_batch(1))
    rows = prediction.maps_BHW[0].sum(1)
    assert ((rows * torch.arange(48)).sum() / rows.sum()).item() == pytest.approx(centre, abs=0.5)
    assert prediction.scores_B.item() == pytest.approx(2 * prediction.maps_BHW.max().item())
