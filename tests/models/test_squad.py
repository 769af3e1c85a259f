"""SQUAD beyond the contract of all models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from calibrated import calibrate
from model_cases import CONTEXT, make_batch, make_model, squad, train_steps, training_batches
from pydantic import ValidationError
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from hvqray.models.batch import Batch
from hvqray.models.squad import SquadModel


def model_of(**fields: object) -> SquadModel:
    model = make_model(squad(**fields))
    assert isinstance(model, SquadModel)
    return model


def flat_images(*, seed: int) -> Batch:
    """Normal images without a pattern: one colour a class, so that a short training suffices to make them."""
    batch = make_batch(seed=seed)
    assert batch.images_B3HW is not None
    batch.images_B3HW[:] = batch.images_B3HW[:, :, 1:2, 1:2].clone()
    return batch


def frozen_discriminator(model: SquadModel) -> nn.Module:
    """The discriminator, frozen in eval mode: no power iteration moves it between two looks."""
    assert model.discriminator is not None
    return model.discriminator.eval()


@pytest.mark.parametrize("quantizer", ["fsq", "vq"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_resolutions_halve_the_grid_from_level_to_level(depth: int, quantizer: str) -> None:
    model = model_of(hierarchy_depth=depth, quantizer=quantizer)
    codes = model.predict(make_batch(4)).codes
    names = ["top", "q2", "q1", "q0"][:1] + [f"q{i}" for i in reversed(range(depth - 1))]
    assert list(codes) == names
    sides = [6, 3, 2, 1][:depth][::-1]
    assert [codes[name].shape for name in names] == [(4, side * side) for side in sides]
    assert model.codebook_sizes() == dict.fromkeys(names, 60 if quantizer == "fsq" else 8)


@pytest.mark.parametrize("quantizer", ["fsq", "vq"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_residual_levels_share_one_grid(depth: int, quantizer: str) -> None:
    model = model_of(hierarchy="residual", hierarchy_depth=depth, quantizer=quantizer)
    codes = model.predict(make_batch(4)).codes
    assert len(codes) == depth
    assert all(indices.shape == (4, 36) for indices in codes.values())


def test_a_residual_level_quantises_what_the_levels_before_it_left_over() -> None:
    model = model_of(hierarchy="residual", hierarchy_depth=3, quantizer="vq")
    seen: list[Tensor] = []
    for level in model.generator.hierarchy.vector_quantizers():
        level.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    z_BDhw = torch.randn(2, 16, 6, 6, generator=torch.Generator().manual_seed(0))
    quantized = model.eval().generator.hierarchy(z_BDhw)
    rest_BLD = z_BDhw.flatten(2).mT
    for tokens_BLD, output in zip(seen, quantized.levels.values(), strict=True):
        torch.testing.assert_close(tokens_BLD, rest_BLD)
        rest_BLD = rest_BLD - output.quantized_BLD
    torch.testing.assert_close(z_BDhw - quantized.decoded_BDhw, rest_BLD.mT.unflatten(-1, (6, 6)))


def test_each_residual_level_passes_its_gradient_to_the_latents_and_the_decoder_s_passes_once() -> None:
    hierarchy = model_of(hierarchy="residual", hierarchy_depth=3, quantizer="vq").generator.hierarchy
    z_BDhw = torch.randn(2, 16, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    quantized = hierarchy(z_BDhw)
    upstream = torch.randn(z_BDhw.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(quantized.decoded_BDhw, z_BDhw, upstream, retain_graph=True)
    torch.testing.assert_close(gradient, upstream)
    left_BDhw = z_BDhw.detach()
    for output in quantized.levels.values():
        left_BDhw = left_BDhw - output.quantized_BLD.detach().mT.unflatten(-1, (6, 6))
        (gradient,) = torch.autograd.grad(output.commitment, z_BDhw, retain_graph=True)
        torch.testing.assert_close(gradient, 2 * left_BDhw / left_BDhw.numel())


def test_kmeans_starts_every_level_near_its_tokens() -> None:
    errors = {}
    for init in ("kmeans", "normal"):
        model = model_of(quantizer="vq", codebook_init=init, codebook_size=32, image_head=False).eval()
        features = model.standardizer(make_batch(seed=1).features_BChw)
        outputs = model.generator(features).quantized.levels
        errors[init] = {name: output.commitment.item() for name, output in outputs.items()}
    for name, error in errors["kmeans"].items():
        assert error < 0.5 * errors["normal"][name]


def test_no_code_learns_from_what_was_looked_at_before_training() -> None:
    model = model_of(quantizer="vq", image_head=False)
    assert model.training
    assert not any(level.statistics_S.any() for level in model.generator.hierarchy.vector_quantizers())


def test_codes_start_from_tokens_drawn_evenly_from_all_images() -> None:
    model = model_of(quantizer="vq", hierarchy_depth=1, image_head=False).eval()
    (level,) = model.generator.hierarchy.vector_quantizers()
    seen: list[Tensor] = []
    with level.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        chosen_TD = model._sample_tokens(training_batches, level, seed=0)
    assert chosen_TD.shape == (72, 16), "at least 64 for 8 codes, as many of each of 24 images"
    is_at_nTL = (chosen_TD.view(24, 3, 1, 16) == torch.cat(seen)[:, None]).all(-1)
    assert (is_at_nTL.sum(-1) == 1).all()
    assert (is_at_nTL.sum((1, 2)) == 3).all()
    assert is_at_nTL.any(1).sum(0).count_nonzero() > 24, "of 36 locations, each drawn twice in the mean"
    assert not torch.equal(model._sample_tokens(training_batches, level, seed=1), chosen_TD)


def test_without_an_image_head_no_image_is_asked_for() -> None:
    model = model_of(image_head=False)
    assert not model.needs_images
    assert [objective.name for objective in model.objectives] == ["generator"]
    batch = make_batch()
    blind = Batch(batch.features_BChw, batch.class_index_B)
    assert not any(name.startswith("image") for name in model.objectives[0].loss(blind, 0.5))
    assert model.predict(blind).maps_BHW.shape == (6, 48, 48)
    assert set(model.component_map.names) == {"cosine", "l2"}


def test_without_a_discriminator_there_is_one_objective() -> None:
    model = model_of(discriminator=False)
    assert model.needs_images
    assert [objective.name for objective in model.objectives] == ["generator"]
    assert "adversarial" not in model.objectives[0].loss(make_batch(), 0.99)
    assert set(model.component_map.names) == {"cosine", "l2", "image"}


def test_without_a_quantiser_there_are_no_codes() -> None:
    model = model_of(quantizer="none")
    assert model.codebook_sizes() == {}
    assert model.predict(make_batch()).codes == {}


def test_parts_of_weight_0_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(map_image_weight=0, map_discriminator_weight=0, map_l2_weight=0)
    assert set(model.component_map.names) == {"cosine"}

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("hvqray.models.squad.ssim_map", fail)
    monkeypatch.setattr(model, "_matching_distance", fail)
    model.predict(make_batch())


def test_a_map_without_any_part_is_refused() -> None:
    with pytest.raises(ValidationError, match="weight 0"):
        squad(map_cosine_weight=0, map_l2_weight=0, image_head=False)


def test_a_distance_that_would_count_for_nothing_is_refused() -> None:
    with pytest.raises(
        ValidationError, match="map_distance: mahalanobis counts for nothing with map_l2_weight 0"
    ):
        squad(map_distance="mahalanobis", score_from="coarse", map_l2_weight=0)


def ssim_by_hand(image_3TT: np.ndarray, target_3TT: np.ndarray) -> float:
    """scikit-image's, with the window of Wang et al., of images in [-1, 1]."""
    _, map_3TT = structural_similarity(
        (image_3TT + 1) / 2,
        (target_3TT + 1) / 2,
        data_range=1.0,
        channel_axis=0,
        gaussian_weights=True,
        use_sample_covariance=False,
        full=True,
    )
    return float(map_3TT.mean())


def test_the_generators_loss_is_the_weighted_sum_of_its_parts_written_out() -> None:
    weights = {
        "feature_mse": 0.3,
        "feature_cosine": 0.7,
        "commitment": 0.6,
        "image_l1": 0.4,
        "image_ssim": 0.9,
    }
    fields = {f"{name}_weight": weight for name, weight in weights.items()}
    model = model_of(quantizer="vq", discriminator=False, image_scale=2, **fields).eval()
    batch = make_batch(2)
    assert batch.images_B3HW is not None
    batch.images_B3HW.random_(0, 256, generator=torch.Generator().manual_seed(0))
    tokens: dict[str, Tensor] = {}
    for name, level in model.generator.hierarchy.levels.items():
        level.register_forward_pre_hook(lambda _, inputs, name=name: tokens.update({name: inputs[0]}))
    losses = model.objectives[0].loss(batch, 0.0)
    with torch.no_grad():
        features = model.standardizer(batch.features_BChw)
        made = model.generator(features)

    x, y = features.double().numpy(), made.features_BChw.double().numpy()
    cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    errors = [
        (output.quantized_BLD - tokens[name]).double() for name, output in made.quantized.levels.items()
    ]
    assert len(errors) == 2
    target = batch.images_B3HW.double().reshape(2, 3, 24, 2, 24, 2).mean((3, 5)).numpy() / 127.5 - 1
    image = made.image_B3TT.double().numpy()
    similarity = np.mean([ssim_by_hand(one, other) for one, other in zip(image, target, strict=True)])
    parts = {
        "feature_mse": np.mean((x - y) ** 2),
        "feature_cosine": np.mean(1 - cosine),
        "commitment": sum(error.square().mean().item() for error in errors),
        "image_l1": np.mean(np.abs(image - target)),
        "image_ssim": 1 - similarity,
    }
    for name, part in parts.items():
        assert losses[name].item() == pytest.approx(part, rel=1e-4), name
        assert part > 0.05, name
    total = sum(weights[name] * part for name, part in parts.items())
    assert losses["loss"].item() == pytest.approx(total, rel=1e-4)


def test_the_discriminator_joins_in_at_its_start() -> None:
    model = model_of(discriminator_start=0.4)
    generator, discriminator = model.objectives
    assert [discriminator.active(progress) for progress in (0, 0.39, 0.4, 0.99)] == [False, False, True, True]
    assert generator.active(0)
    assert "adversarial" not in generator.loss(make_batch(), 0.39)
    assert "adversarial" in generator.loss(make_batch(), 0.4)


def test_the_discriminator_learns_to_tell_and_leaves_the_generator_alone() -> None:
    model = model_of(discriminator_start=0)
    generator, discriminator = model.objectives
    optimizer = torch.optim.AdamW(discriminator.module.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        generator.loss(make_batch(), 0.5)
        judged = discriminator.loss(make_batch(), 0.5)
        optimizer.zero_grad()
        judged["loss"].backward()
        optimizer.step()
        losses.append(judged["loss"].item())
    assert losses[-1] < 0.7 * losses[0]
    assert judged["discriminator_real"] > 0 > judged["discriminator_fake"]
    assert all(parameter.grad is None for parameter in model.generator.parameters())
    model.after_step()
    with pytest.raises(AssertionError, match="the generator's loss comes first"):
        discriminator.loss(make_batch(), 0.5)


@pytest.mark.parametrize("adversarial_weight", [0.0, 0.1, 2.0])
def test_the_generators_gradient_is_that_of_the_whole_loss_written_out(adversarial_weight: float) -> None:
    model = model_of(discriminator_start=0, adversarial_weight=adversarial_weight)
    discriminator, batch = frozen_discriminator(model), make_batch()
    losses = model.objectives[0].loss(batch, 0.5)
    losses["loss"].backward()
    seen = {name: parameter.grad for name, parameter in model.generator.named_parameters()}
    assert all(parameter.grad is None for parameter in discriminator.parameters())

    model.zero_grad(set_to_none=True)
    without = SquadModel(squad(discriminator=False), CONTEXT)
    without.generator.load_state_dict(model.generator.state_dict())
    without.standardizer.load_state_dict(model.standardizer.state_dict())
    reconstruction_loss = without.objectives[0].loss(batch, 0.5)
    image = without.generator(without.standardizer(batch.features_BChw)).image_B3TT
    assert image is not None
    assert without.generator.image_head is not None
    adversarial = -discriminator(image).mean()
    last = without.generator.image_head.last.weight
    # Features do not pass the image head, so the whole loss has the image loss's gradient there.
    (image_gradient,) = torch.autograd.grad(reconstruction_loss["loss"], last, retain_graph=True)
    (adversarial_gradient,) = torch.autograd.grad(adversarial, last, retain_graph=True)
    weight = adversarial_weight * image_gradient.norm() / (adversarial_gradient.norm() + 1e-4)
    total = reconstruction_loss["loss"] + weight * adversarial
    total.backward()
    torch.testing.assert_close(losses["loss"], total)
    torch.testing.assert_close(losses["adversarial_weight"], weight)
    for name, parameter in without.generator.named_parameters():
        torch.testing.assert_close(seen[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_under_bfloat16_the_image_loss_is_differentiated_as_without_a_discriminator() -> None:
    batch, gradients = make_batch(), []
    assert batch.images_B3HW is not None
    batch.images_B3HW.random_(0, 256, generator=torch.Generator().manual_seed(0))
    fields = {"image_l1_weight": 0.0, "image_ssim_weight": 1.0, "adversarial_weight": 0.0, "image_scale": 2}
    for discriminator in (True, False):
        model = model_of(**fields, discriminator_start=0, discriminator=discriminator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = model.objectives[0].loss(batch, 0.5)
        assert ("adversarial" in losses) is discriminator
        losses["loss"].backward()
        assert model.generator.image_head is not None
        gradients.append(model.generator.image_head.last.bias.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)


def test_the_gradients_are_summed_over_ranks_before_their_norms() -> None:
    model = model_of(discriminator_start=0)
    frozen_discriminator(model)
    alone = model.objectives[0].loss(make_batch(), 0.5)["adversarial_weight"]

    def beside_a_rank_with_twice_the_adversarial_gradient(tensor: Tensor) -> Tensor:
        tensor[0, :-1] *= 2
        tensor[1, :-1] *= 3
        tensor[:, -1] *= 2
        return tensor

    model.all_reduce_sum_ = beside_a_rank_with_twice_the_adversarial_gradient
    shared = model.objectives[0].loss(make_batch(), 0.5)["adversarial_weight"]
    assert (shared / alone).item() == pytest.approx(2 / 3, rel=0.01)


def test_feature_noise_is_drawn_from_the_stream_and_only_reaches_the_input() -> None:
    model = model_of(feature_noise=0.5, image_head=False)

    def loss(seed: int) -> float:
        model.random.begin_step(seed, rows=slice(None), num_rows=6)
        return model.objectives[0].loss(make_batch(), 0.5)["loss"].item()

    assert loss(1) == loss(1)
    assert loss(1) != loss(2)
    assert torch.equal(model.predict(make_batch()).maps_BHW, model.predict(make_batch()).maps_BHW)


def test_what_is_learned_from_noisy_features_are_the_clean_ones() -> None:
    model, batch = model_of(feature_noise=2.0, image_head=False), make_batch()
    passes: list[tuple[Tensor, Tensor]] = []
    model.generator.register_forward_hook(
        lambda _, inputs, output: passes.append((inputs[0], output.features_BChw))
    )
    losses = model.objectives[0].loss(batch, 0.0)
    ((given, made),) = passes
    clean = model.standardizer(batch.features_BChw)
    assert (given - clean).std().item() == pytest.approx(2.0, rel=0.1)
    assert losses["feature_mse"].item() == pytest.approx((made - clean).square().mean().item(), rel=1e-5)
    cosine = (made * clean).sum(1) / made.norm(dim=1) / clean.norm(dim=1)
    assert losses["feature_cosine"].item() == pytest.approx((1 - cosine).mean().item(), rel=1e-5)


def test_the_target_is_the_image_averaged_over_areas() -> None:
    batch = make_batch(2)
    assert batch.images_B3HW is not None
    batch.images_B3HW.random_(0, 256, generator=torch.Generator().manual_seed(0))
    target = model_of(image_scale=4)._target_image(batch)
    expected = batch.images_B3HW.double().reshape(2, 3, 12, 4, 12, 4).mean((3, 5)) / 255 * 2 - 1
    torch.testing.assert_close(target.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_the_image_head_reaches_its_size_from_any_grid(scale: int) -> None:
    model = model_of(image_scale=scale)
    reconstruction = model.generator(make_batch(2).features_BChw)
    assert reconstruction.image_B3TT.shape == (2, 3, 48 // scale, 48 // scale)
    assert reconstruction.image_B3TT.abs().max() <= 1


def test_calibration_gives_every_part_mean_0_and_deviation_1_on_normal_images() -> None:
    model = model_of()
    calibrate(model, training_batches)
    with torch.no_grad():
        model.eval()
        parts = [model.component_map.normalize(model._components(batch)[0]) for batch in training_batches()]
    assert parts[0].keys() == {"cosine", "l2", "image", "discriminator"}
    for name in parts[0]:
        values = torch.cat([part[name].flatten() for part in parts])
        assert values.mean().item() == pytest.approx(0, abs=1e-4)
        assert values.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_two_ranks_learn_the_codes_that_one_learns_of_all_images() -> None:
    whole = make_batch()
    fields = {"quantizer": "vq", "hierarchy_depth": 3, "image_head": False}
    one, first, second = (model_of(**fields) for _ in range(3))
    one.objectives[0].loss(whole, 0.0)
    for model, rows in ((first, slice(0, 2)), (second, slice(2, 6))):
        model.objectives[0].loss(Batch(whole.features_BChw[rows], whole.class_index_B[rows]), 0.0)
    levels = zip(*(model.generator.hierarchy.vector_quantizers() for model in (first, second)), strict=True)
    totals = iter([b.statistics_S + c.statistics_S for b, c in levels])
    first.all_reduce_sum_ = lambda statistics: statistics.copy_(next(totals))
    before = one.generator.hierarchy.levels["q0"].codebook_MKD.clone()
    for model in (one, first):
        model.after_step()
    assert not torch.allclose(one.generator.hierarchy.levels["q0"].codebook_MKD, before)
    for name, value in one.named_buffers():
        torch.testing.assert_close(first.get_buffer(name), value, rtol=1e-4, atol=1e-5)


def test_the_map_is_measured_on_the_images_of_all_ranks() -> None:
    alone, shared = model_of(), model_of()

    def beside_a_peer_whose_parts_are_larger_by_one(sums_3n: Tensor) -> Tensor:
        count_n, total_n, square_n = sums_3n.clone()
        sums_3n += torch.stack([count_n, total_n + count_n, square_n + 2 * total_n + count_n])
        return sums_3n

    shared.all_reduce_sum_ = beside_a_peer_whose_parts_are_larger_by_one
    for model in (alone, shared):
        calibrate(model, training_batches)
    torch.testing.assert_close(shared.component_map.mean_n, alone.component_map.mean_n + 0.5)


def with_checks(images_B3HW: Tensor) -> Tensor:
    """A defect: a chequered square over rows 24 to 40 and columns 8 to 24."""
    checks = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8).repeat(2, 2)
    images = images_B3HW.clone()
    images[:, :, 24:40, 8:24] = checks.repeat_interleave(4, 0).repeat_interleave(4, 1)
    return images


def test_a_defect_in_the_image_alone_is_found_by_the_images_part() -> None:
    weights = {
        f"map_{name}_weight": float(name == "image") for name in ("cosine", "l2", "image", "discriminator")
    }
    model = model_of(**weights, image_scale=2, discriminator=False)
    train_steps(model, [flat_images(seed=seed) for seed in range(3)], num_steps=24)
    calibrate(model, lambda: iter([flat_images(seed=3)]))
    normal = flat_images(seed=50)
    assert normal.images_B3HW is not None
    before = model.predict(normal).maps_BHW
    defective = Batch(normal.features_BChw, normal.class_index_B, with_checks(normal.images_B3HW))
    rise = model.predict(defective).maps_BHW - before
    assert (rise[:, 28:36, 12:20].mean((1, 2)) > 1).all()
    assert rise[:, :8, 32:].abs().max() < 0.1


def test_the_discriminators_part_is_the_distance_of_what_it_sees_in_two_images() -> None:
    model = model_of(image_scale=1).eval()
    normal = flat_images(seed=0)
    assert normal.images_B3HW is not None
    defective = Batch(normal.features_BChw, normal.class_index_B, with_checks(normal.images_B3HW))
    with torch.no_grad():
        image, target = model._target_image(normal), model._target_image(defective)
        distance = model._matching_distance(image, target)
        assert (model._matching_distance(image, image) == 0).all()
    assert distance.shape == (6, 24, 24)
    assert (distance[:, 14:18, 6:10].mean((1, 2)) > 0.05).all()
    # Nothing is felt farther away than half a patch (26 pixels) and half a cell of the coarsest grid (4 pixels).
    assert (distance[:, :, 22:] == 0).all()


def test_the_discriminators_part_is_the_mean_over_its_stages() -> None:
    model = model_of(image_scale=1)
    discriminator = frozen_discriminator(model)
    generator = torch.Generator().manual_seed(0)
    image, target = (2 * torch.rand(2, 3, 48, 48, generator=generator) - 1 for _ in range(2))
    outputs: list[Tensor] = []
    for stage in discriminator.stages:
        stage.register_forward_hook(lambda _, inputs, output: outputs.append(F.leaky_relu(output, 0.2)))
    with torch.no_grad():
        discriminator(image)
        discriminator(target)
        distance = model._matching_distance(image, target)
    maps = [(x - y).abs().mean(1, keepdim=True) for x, y in zip(outputs[:3], outputs[3:6], strict=True)]
    assert [each.shape[-1] for each in maps] == [24, 12, 12]
    enlarged = [F.interpolate(each, size=(24, 24), mode="bilinear")[:, 0] for each in maps]
    torch.testing.assert_close(distance, sum(enlarged) / 3)


@pytest.mark.parametrize("grid_of_patches", [False, True])
def test_parts_on_a_grid_of_cells_are_drawn_at_the_cells_centres(
    monkeypatch: pytest.MonkeyPatch, grid_of_patches: bool
) -> None:
    torch.manual_seed(0)
    model = SquadModel(squad(smoothing_sigma=0.0), replace(CONTEXT, grid_of_patches=grid_of_patches))
    sides = {"cosine": 6, "l2": 6, "image": 12, "discriminator": 6}
    zeros = {name: torch.zeros(1, side, side) for name, side in sides.items()}
    _, reconstruction = model._components(make_batch(1))
    for name, side in sides.items():
        hot = zeros[name].clone()
        hot[0, 1, 1] = 1
        monkeypatch.setattr(
            model, "_components", lambda _, name=name, hot=hot: (zeros | {name: hot}, reconstruction)
        )
        rows = model.predict(make_batch(1)).maps_BHW[0].sum(1)
        found = ((rows * torch.arange(48)).sum() / rows.sum()).item()
        at_centre = grid_of_patches or name in ("image", "discriminator")
        expected = 1.5 * 48 / side - 0.5 if at_centre else 47 / (side - 1)
        assert found == pytest.approx(expected, abs=0.5), name
