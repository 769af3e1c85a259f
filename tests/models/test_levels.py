"""One level of a hierarchy of codes does what the configuration says."""

from __future__ import annotations

import pytest
import torch
from model_cases import hvq
from torch import Tensor

from hvqray.models.levels import FsqLevel, Level, build_level
from hvqray.quantizers.vq import VectorQuantizer

WIDTH, CODEBOOK_SIZE = 8, 4
FIRST = torch.zeros(1, dtype=torch.int64)


def make_level(quantizer: str, **fields: object) -> Level:
    torch.manual_seed(0)
    config = hvq(quantizer=quantizer, ot_levels=[], **fields)
    return build_level(config, quantizer, CODEBOOK_SIZE, num_classes=2, width=WIDTH)  # type: ignore[arg-type]


def step(level: VectorQuantizer, x_BLD: Tensor) -> None:
    level(x_BLD, FIRST)
    level.update(lambda statistics: statistics)


@pytest.mark.parametrize("decay", [0.5, 0.97])
def test_averages_decay_as_asked_for(decay: float) -> None:
    level = make_level("vq", ema_decay=decay)
    assert isinstance(level, VectorQuantizer)
    step(level, level.codebook_MKD[:1, [2, 2, 2]].clone())
    expected = [decay, decay, decay + 3 * (1 - decay), decay]
    assert level.ema_count_MK[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("revive", [True, False])
def test_dead_codes_move_where_that_is_asked_for_and_not_sooner(revive: bool) -> None:
    level = make_level("vq", revive_dead_codes=revive, revive_after=3)
    assert isinstance(level, VectorQuantizer)
    x_BLD, start_D = level.codebook_MKD[:1, [2, 2, 2]].clone(), level.codebook_MKD[0, 0].clone()
    for number in range(1, 4):
        step(level, x_BLD)
        moved = not torch.allclose(level.codebook_MKD[0, 0], start_D, rtol=1e-3)
        assert moved == (revive and number == 3)


def test_codes_are_as_many_and_as_large_as_asked_for() -> None:
    learned, fixed, without = make_level("vq"), make_level("fsq"), make_level("none")
    assert isinstance(learned, VectorQuantizer)
    assert learned.codebook_MKD.shape == (2, CODEBOOK_SIZE, WIDTH)
    assert isinstance(fixed, FsqLevel)
    assert fixed.fsq.levels.tolist() == [5, 4, 3]
    assert fixed.codebook_size == 60
    assert without.codebook_size is None
    x_BLD = torch.randn(2, 3, WIDTH)
    output = without(x_BLD, torch.tensor([0, 1]))
    assert output.quantized_BLD is x_BLD
    assert (output.indices_BL, output.commitment.item()) == (None, 0)


def test_fsq_is_projected_in_float32_whatever_the_autocast() -> None:
    level, x_BLD = make_level("fsq"), 3 * torch.randn(4, 200, WIDTH)
    plain = level(x_BLD, FIRST)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = level(x_BLD, FIRST)
    assert torch.equal(mixed.indices_BL, plain.indices_BL)
    assert torch.equal(mixed.quantized_BLD, plain.quantized_BLD)
