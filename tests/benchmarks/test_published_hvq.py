"""The plain loop that benchmarks compare with computes what the product computes, so that both do the same work."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from benchmarks.problems import Problem, problems
from benchmarks.published_hvq import Codebook, Layer, PublishedHvq
from benchmarks.published_loop import plain
from hvqray.config.model_sections import HvqConfig
from hvqray.models.attention import MultiheadAttention
from hvqray.models.batch import Batch
from hvqray.models.context import ModelContext
from hvqray.models.hvq import HvqModel

CONTEXT = ModelContext(("bolt", "cloth"), 12, (4, 4), 64)
CONFIG = HvqConfig(
    width=16,
    num_heads=2,
    feedforward_width=32,
    hierarchy_depth=2,
    codebook_size=8,
    dropout=0.0,
    standardize_features=False,
    codebook_init="normal",
)


def _copy_linear(target: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    target.weight.copy_(weight)
    target.bias.copy_(bias)


def _copy_attention(target: nn.MultiheadAttention, source: MultiheadAttention) -> None:
    parts = (source.query, source.key, source.value)
    target.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
    biases = [torch.zeros(len(part.weight)) if part.bias is None else part.bias for part in parts]
    target.in_proj_bias.copy_(torch.cat(biases))
    _copy_linear(target.out_proj, source.output.weight, source.output.bias)


@torch.no_grad()
def _copied(model: HvqModel) -> PublishedHvq:
    network, plain = model.network, PublishedHvq(CONFIG, CONTEXT)
    _copy_linear(plain.projection, network.projection.weight, network.projection.bias)
    plain.row_hE.copy_(network.position.row_hE)
    plain.column_wE.copy_(network.position.column_wE)
    for target, source in zip(
        [*plain.encoder, *plain.decoder], [*network.encoder, *network.decoder], strict=True
    ):
        assert isinstance(target, Layer)
        _copy_attention(target.attention, source.self_attention)
        if target.crossing is not None:
            _copy_attention(target.crossing, source.cross_attention)
        for name in ("expand", "contract"):
            getattr(target, name).load_state_dict(getattr(source.feedforward, name).state_dict())
        # Norms need no copying: in both they start as the identity.
    for books, level in zip([plain.top, *plain.lower], network.vector_quantizers(), strict=True):
        for c, book in enumerate(cast(nn.ModuleList, books)):
            assert isinstance(book, Codebook)
            book.codes_KD = level.codebook_MKD[c].clone()
            book.sum_KD = level.ema_sum_MKD[c].clone()
            book.count_K = level.ema_count_MK[c].clone()
            level.used_MK.fill_(True)
    for c, expert in enumerate(plain.experts):
        assert isinstance(expert, nn.Linear)
        _copy_linear(expert, network.output.weight_MWC[c].T, network.output.bias_MC[c])
    return plain


@pytest.fixture
def model() -> HvqModel:
    torch.manual_seed(0)
    return HvqModel(CONFIG, CONTEXT)


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.randn(4, 12, 4, 4, generator=generator), torch.tensor([0, 1, 1, 0]))


def test_loss_is_the_products(model: HvqModel, batch: Batch) -> None:
    plain = _copied(model)
    # In eval mode: in training the plain loop's codes change from image to image, the product's from step to step.
    output, commitment, _ = plain.eval()(batch.features_BChw, batch.class_index_B)
    loss = (output - batch.features_BChw).square().mean() + CONFIG.commitment_weight * commitment
    expected = model.eval().loss(batch, 0.0)
    torch.testing.assert_close(loss, expected["loss"])
    torch.testing.assert_close(commitment, expected["commitment"])


def test_gradients_are_the_products(model: HvqModel, batch: Batch) -> None:
    plain = _copied(model)
    output, commitment, _ = plain.eval()(batch.features_BChw, batch.class_index_B)
    ((output - batch.features_BChw).square().mean() + CONFIG.commitment_weight * commitment).backward()
    model.eval().loss(batch, 0.0)["loss"].backward()
    torch.testing.assert_close(plain.projection.weight.grad, model.network.projection.weight.grad)
    torch.testing.assert_close(plain.row_hE.grad, model.network.position.row_hE.grad)


def test_ema_update_of_one_image_is_the_products(model: HvqModel, batch: Batch) -> None:
    plain = _copied(model)
    plain.train()(batch.features_BChw[:1], batch.class_index_B[:1])
    model.train().loss(Batch(batch.features_BChw[:1], batch.class_index_B[:1]), 0.0)
    model.after_step()
    for books, level in zip([plain.top, *plain.lower], model.network.vector_quantizers(), strict=True):
        book = cast(nn.ModuleList, books)[0]
        assert isinstance(book, Codebook)
        torch.testing.assert_close(book.codes_KD, level.codebook_MKD[0])
        torch.testing.assert_close(book.count_K, level.ema_count_MK[0])


def test_transport_cost_is_the_products(model: HvqModel, batch: Batch) -> None:
    plain = _copied(model)
    x_BLW = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(2))
    book = cast(nn.ModuleList, plain.lower[0])[1]
    assert isinstance(book, Codebook)
    level = model.network.vector_quantizers()[1]
    torch.testing.assert_close(
        book.transport_cost(x_BLW[0])[None], level.transport_cost(x_BLW, torch.tensor([1]))
    )


@pytest.mark.parametrize("problem", problems(quick=True), ids=lambda problem: problem.name)
def test_backbone_takes_batch_statistics_in_training_alone(problem: Problem) -> None:
    torch.manual_seed(0)
    loop, class_index = plain(problem, "cpu"), torch.tensor([0, 1])
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    norm = next(each for each in loop.backbone.modules() if isinstance(each, nn.BatchNorm2d))
    mean_before = cast(Tensor, norm.running_mean).clone()
    loop.step(images[:2], class_index)
    mean_after = cast(Tensor, norm.running_mean).clone()
    assert not torch.equal(mean_after, mean_before)
    maps_BSS, other_maps_BSS = (loop.predict(images[rows], class_index)[0] for rows in ([0, 1], [0, 2]))
    # Equal but for rounding: nothing of the image beside it.
    torch.testing.assert_close(maps_BSS[0], other_maps_BSS[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(cast(Tensor, norm.running_mean), mean_after)
    loop.step(images[:2], class_index)
    assert not torch.equal(cast(Tensor, norm.running_mean), mean_after)
