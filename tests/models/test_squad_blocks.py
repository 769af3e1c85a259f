"""SQUAD's hierarchy of resolutions, its encoder and its heads, composed by hand from their weights in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from model_cases import squad
from torch import Tensor, nn

from hvqray.models.squad_blocks import Generator, ImageHead, ResolutionHierarchy

WIDTH = 16


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in module.state_dict().items()}


def convolved(weights: dict[str, Tensor], name: str, x_BDhw: Tensor, *, padding: int = 0) -> Tensor:
    return F.conv2d(x_BDhw, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)


def block_by_hand(weights: dict[str, Tensor], name: str, x_BDhw: Tensor) -> Tensor:
    inner = F.conv2d(x_BDhw.relu(), weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"], padding=1)
    return x_BDhw + F.conv2d(inner.relu(), weights[f"{name}.expand.weight"], weights[f"{name}.expand.bias"])


def nearest_by_hand(weights: dict[str, Tensor], name: str, x_BDhw: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest code of every location, and its index (B, L)."""
    codes_KD = weights[f"levels.{name}.codebook_MKD"][0]
    indices_Bhw = torch.cdist(x_BDhw.permute(0, 2, 3, 1).flatten(0, 2), codes_KD).argmin(1)
    indices_Bhw = indices_Bhw.view(len(x_BDhw), *x_BDhw.shape[2:])
    return codes_KD[indices_Bhw].permute(0, 3, 1, 2), indices_Bhw.flatten(1)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_each_level_quantises_its_grid_beside_what_the_coarser_ones_say(depth: int) -> None:
    """Down to the coarsest grid, then up: quantise, decode, enlarge, merge with the next finer grid."""
    torch.manual_seed(0)
    hierarchy = ResolutionHierarchy(squad(quantizer="vq", hierarchy_depth=depth)).eval()
    weights = weights_of(hierarchy)
    z_BDhw = 3 * torch.randn(8, WIDTH, 8, 8)
    grids = [z_BDhw.double()]
    for i in range(depth - 1):
        weight, bias = weights[f"down.{i}.weight"], weights[f"down.{i}.bias"]
        grids.append(F.conv2d(grids[-1].relu(), weight, bias, stride=2, padding=1))

    names = ["top", *(f"q{i}" for i in reversed(range(depth - 1)))]
    expected, decoded = {}, None
    for name, grid in zip(names, reversed(grids), strict=True):
        context = torch.zeros_like(grid)
        if decoded is not None:
            context = decoded.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            both = torch.cat([grid, context], dim=1)
            grid = F.conv2d(both, weights[f"merge.{name}.weight"], weights[f"merge.{name}.bias"])
        code, expected[name] = nearest_by_hand(weights, name, grid)
        decoded = block_by_hand(weights, f"decoder.{name}", code + context)

    found = hierarchy(z_BDhw)
    assert list(found.levels) == list(expected)
    for name, indices_BL in expected.items():
        assert torch.equal(found.levels[name].indices_BL, indices_BL), name
        assert len(indices_BL.unique()) > 1
    torch.testing.assert_close(found.decoded_BDhw.double(), decoded, rtol=1e-4, atol=1e-5)


def test_features_are_encoded_and_decoded_by_residual_blocks() -> None:
    torch.manual_seed(0)
    config = squad(quantizer="none", hierarchy="residual", hierarchy_depth=1, image_head=False)
    generator = Generator(
        config.model_copy(update={"num_residual_blocks": 2}), feature_channels=5, grid_side=4, image_side=16
    )
    weights = weights_of(generator)
    features_BChw = 3 * torch.randn(2, 5, 4, 4)
    x_BDhw = convolved(weights, "encoder.0", features_BChw.double())
    for part in ("encoder.1.0", "encoder.1.1", "feature_head.0.0", "feature_head.0.1"):
        x_BDhw = block_by_hand(weights, part, x_BDhw)
    expected = convolved(weights, "feature_head.2", x_BDhw.relu())
    for made in (generator(features_BChw).features_BChw, generator.reconstruct_features(features_BChw)):
        torch.testing.assert_close(made.double(), expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert generator(features_BChw).features_BChw.dtype is torch.float32
        assert generator.reconstruct_features(features_BChw).dtype is torch.float32


def test_the_image_head_doubles_the_side_and_halves_the_channels_up_to_the_image() -> None:
    torch.manual_seed(0)
    assert ImageHead(WIDTH, 4, grid_side=6, image_side=24).sides == [12, 24]
    head, sides = ImageHead(WIDTH, 4, grid_side=6, image_side=40), (12, 24, 40)
    with torch.no_grad():
        head.last.weight *= 30  # so far that tanh bends
    weights = weights_of(head)
    decoded_BDhw = 3 * torch.randn(2, WIDTH, 6, 6)
    x = decoded_BDhw.double()
    for i, (side, width) in enumerate(zip(sides, (16, 8, 4), strict=True)):
        reduced = convolved(weights, f"reduce.{i}", x.relu())
        assert reduced.shape[1] == width
        nearest = torch.arange(side) * reduced.shape[2] // side
        x = reduced[:, :, nearest][:, :, :, nearest]
        x = x + convolved(weights, f"blocks.{i}", x.relu(), padding=1)
    expected = convolved(weights, "last", x.relu(), padding=1).tanh()
    assert expected.abs().max() > 0.9
    torch.testing.assert_close(head(decoded_BDhw).double(), expected, rtol=1e-4, atol=1e-4)
