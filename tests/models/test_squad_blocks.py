"""SQUAD's hierarchy of resolutions, composed by hand from its weights in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from model_cases import squad
from torch import Tensor

from hvqray.models.squad_blocks import ResolutionHierarchy

WIDTH = 16


def weights_of(hierarchy: ResolutionHierarchy) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in hierarchy.state_dict().items()}


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
