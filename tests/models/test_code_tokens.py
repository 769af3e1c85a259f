"""Without gradients the decoder's keys and values are computed per code and looked up: with the same result, where it is less."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from calibrated import calibrate
from model_cases import CHANNELS, GRID, hvq, make_batch, make_model
from torch import Tensor, nn

from hvqray.models.attention import DecoderLayer
from hvqray.models.batch import Batch
from hvqray.models.code_tokens import CodeTokens
from hvqray.models.hvq import HvqModel
from hvqray.models.router import shared_route

NUM_TOKENS = GRID[0] * GRID[1]  # of an image


def make_hvq(**fields: object) -> HvqModel:
    model = make_model(hvq(**fields))
    assert isinstance(model, HvqModel)
    return model.eval()


def one_class(num_images: int, class_index: int = 1) -> Batch:
    return Batch(make_batch(num_images).features_BChw, torch.full((num_images,), class_index))


def rows_projected_to_keys(model: HvqModel, batch: Batch) -> list[int]:
    """How many vectors each decoder layer maps to keys in a prediction."""
    seen: list[int] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].shape[:-1].numel())

    keys = [cast(DecoderLayer, layer).cross_attention.key for layer in model.network.decoder]
    hooks = [key.register_forward_pre_hook(note) for key in keys]
    model.predict(batch)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(
    ("fields", "batch", "num_codes"),
    [
        ({}, one_class(6), 8),
        ({}, make_batch(6), 8 * 6),
        ({"router": "none"}, make_batch(6), 8),
        ({"quantizer": "fsq"}, make_batch(6), 5 * 4 * 3),
    ],
    ids=["one class", "mixed classes", "one route", "fsq"],
)
def test_looked_up_keys_and_values_reconstruct_what_the_training_path_does(
    fields: dict[str, object], batch: Batch, num_codes: int
) -> None:
    model = make_hvq(hierarchy_depth=3, **fields)
    features = model.standardizer(batch.features_BChw)
    route_B = model.router(batch.features_BChw, batch.class_index_B)
    with torch.enable_grad():
        expected, _ = model.network(features, route_B)
    with torch.no_grad():
        found, _ = model.network(features, shared_route(route_B))
    assert expected.shape == (6, CHANNELS, *GRID)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)
    assert rows_projected_to_keys(model, batch) == [num_codes] * 3


@pytest.mark.parametrize(
    ("fields", "batch"),
    [
        ({"codebook_size": NUM_TOKENS}, one_class(1)),
        ({"codebook_size": NUM_TOKENS}, make_batch(3)),
        ({"quantizer": "fsq"}, one_class(1)),
        ({"quantizer": "none"}, one_class(3)),
    ],
    ids=["vq, one image", "vq, mixed classes", "fsq, one image", "none"],
)
def test_tokens_are_projected_where_codes_are_not_fewer(fields: dict[str, object], batch: Batch) -> None:
    num_tokens = NUM_TOKENS * len(batch.class_index_B)
    assert rows_projected_to_keys(make_hvq(**fields), batch) == [num_tokens] * 2


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_map_of_codes_and_positions_is_that_of_their_sum(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(6, 4, bias=bias)
    codes_KD, indices_BL, position_LD = torch.randn(5, 6), torch.randint(5, (2, 7)), torch.randn(7, 6)
    tokens = CodeTokens(codes_KD[indices_BL], codes_KD, indices_BL)
    with torch.no_grad():
        torch.testing.assert_close(tokens.through(linear), linear(tokens.tokens_BLD))
        torch.testing.assert_close(
            tokens.through(linear, position_LD), linear(tokens.tokens_BLD + position_LD)
        )


def test_a_route_is_shared_where_all_images_have_it() -> None:
    assert shared_route(torch.tensor([2, 2, 2])).tolist() == [2]
    assert shared_route(torch.tensor([2, 2, 1])).tolist() == [2, 2, 1]


def test_an_image_is_judged_alike_among_its_own_class_and_among_others() -> None:
    model = make_hvq(ot_levels=[0, 1], map_distance="local_mahalanobis")
    calibrate(model, lambda: iter([make_batch(9, seed=1)]))
    batch = make_batch(6)
    together = model.predict(batch)
    for route in range(3):
        mine = batch.class_index_B == route
        alone = model.predict(Batch(batch.features_BChw[mine], batch.class_index_B[mine]))
        torch.testing.assert_close(alone.maps_BHW, together.maps_BHW[mine], rtol=1e-4, atol=1e-4)
        assert torch.equal(alone.codes["q0"], together.codes["q0"][mine])
