"""FSQ against a literal NumPy reading of the paper's formulas."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from hvqray.quantizers.fsq import FSQ

LEVEL_SETS = [[3], [4], [8, 6, 5], [8, 5, 5, 5], [7, 5, 5, 5, 5], [64, 3], [16]]


def reference(z: np.ndarray, levels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Codes and indices, one number at a time, in float64."""
    codes = np.empty_like(z)
    indices = np.zeros(len(z), dtype=np.int64)
    for row, latent in enumerate(z):
        place = 1
        for dim, level in enumerate(levels):
            half = (level - 1) * (1 + 1e-3) / 2
            offset = 0.5 if level % 2 == 0 else 0.0
            digit = np.round(np.tanh(latent[dim] + np.arctanh(offset / half)) * half - offset)
            codes[row, dim] = digit / (level // 2)
            indices[row] += int(digit + level // 2) * place
            place *= level
    return codes, indices


@pytest.mark.parametrize("levels", LEVEL_SETS)
def test_equals_the_literal_formula(levels: list[int]) -> None:
    z = np.random.default_rng(0).normal(scale=2, size=(500, len(levels)))
    codes, indices = FSQ(levels)(torch.from_numpy(z))
    expected_codes, expected_indices = reference(z.astype(np.float32).astype(np.float64), levels)
    np.testing.assert_allclose(codes.numpy(), expected_codes, atol=1e-6)
    np.testing.assert_array_equal(indices.numpy(), expected_indices)


@pytest.mark.parametrize("levels", LEVEL_SETS)
def test_indices_and_codes_are_each_others_inverse(levels: list[int]) -> None:
    fsq = FSQ(levels)
    indices = torch.arange(fsq.codebook_size)
    codes = fsq.indices_to_codes(indices)
    assert codes.shape == (fsq.codebook_size, len(levels))
    assert len({tuple(code) for code in codes.tolist()}) == fsq.codebook_size
    assert codes.abs().max() <= 1
    torch.testing.assert_close(fsq.codes_to_indices(codes), indices, rtol=0, atol=0)


@pytest.mark.parametrize("levels", [*LEVEL_SETS, [999, 998]])
def test_every_level_is_reached_and_none_beyond(levels: list[int]) -> None:
    z = torch.linspace(-12, 12, 200_001).unsqueeze(1).expand(-1, len(levels))
    codes = FSQ(levels)(z).codes
    for dim, level in enumerate(levels):
        digits = torch.unique((codes[:, dim] * (level // 2)).round()) + level // 2
        assert digits.tolist() == list(range(level))


@pytest.mark.parametrize("levels", [[3], [4], [3, 4], [8, 6, 5], [7, 5, 5, 5, 5], [8, 8, 8, 6, 5]])
def test_every_index_is_reached_and_comes_back(levels: list[int]) -> None:
    """The latent in the middle of every cell, from the inverse of the bound, gives that cell's index and code."""
    fsq = FSQ(levels)
    digits = np.stack(np.unravel_index(np.arange(fsq.codebook_size), levels[::-1]), axis=1)[:, ::-1]
    level = np.array(levels, dtype=np.float64)
    half = (level - 1) * (1 + 1e-3) / 2
    offset = np.where(level % 2 == 0, 0.5, 0)
    z = np.arctanh((digits - level // 2 + offset) / half) - np.arctanh(offset / half)
    codes, indices = fsq(torch.from_numpy(z))
    assert torch.equal(indices, torch.arange(fsq.codebook_size))
    torch.testing.assert_close(codes, fsq.indices_to_codes(indices), rtol=0, atol=1e-6)
    assert torch.equal(fsq.codes_to_indices(codes), indices)


def test_the_first_level_varies_fastest() -> None:
    fsq = FSQ([3, 4])
    digits = (fsq.indices_to_codes(torch.arange(12)) * torch.tensor([1, 2]) + torch.tensor([1, 2])).long()
    assert digits.tolist() == [[a, b] for b, a in itertools.product(range(4), range(3))]


@pytest.mark.parametrize("levels", [[5], [8], [8, 5, 5, 5]])
def test_the_gradient_is_that_of_the_bound(levels: list[int]) -> None:
    z = torch.randn(50, len(levels), generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.randn(50, len(levels), generator=torch.Generator().manual_seed(1))
    (FSQ(levels)(z).codes * weight).sum().backward()
    level = np.array(levels, dtype=np.float64)
    half = (level - 1) * (1 + 1e-3) / 2
    shift = np.arctanh(np.where(level % 2 == 0, 0.5, 0) / half)
    slope = half / np.floor(level / 2) / np.cosh(z.detach().double().numpy() + shift) ** 2
    assert z.grad is not None
    np.testing.assert_allclose(z.grad.numpy(), weight.numpy() * slope, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("level", [3, 4, 5, 6, 8])
def test_a_latent_of_zero_is_bounded_to_zero(level: int) -> None:
    """So the slope there, half (1 - (offset / half)^2) / floor(L / 2), is that of a bound which the shift centres to rounding."""
    z = torch.zeros(1, 1, requires_grad=True)
    FSQ([level])(z).codes.backward()
    half, offset = (level - 1) * (1 + 1e-3) / 2, 0.5 if level % 2 == 0 else 0.0
    assert z.grad is not None
    assert z.grad.item() == pytest.approx(half * (1 - (offset / half) ** 2) / (level // 2), rel=1e-6)


def test_autocast_changes_nothing() -> None:
    fsq = FSQ([8, 8, 8, 5, 5, 5])
    z = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    plain = fsq(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = fsq(z)
    assert mixed.codes.dtype == torch.float32
    assert torch.equal(plain.codes, mixed.codes)
    assert torch.equal(plain.indices, mixed.indices)


def test_latents_in_bf16_are_quantised_as_the_same_numbers_in_float32() -> None:
    fsq = FSQ([8, 8, 8, 5, 5, 5])
    z = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes, indices = fsq(z.requires_grad_())
        codes.sum().backward()
    expected_codes, expected_indices = fsq(z.detach().float())
    assert torch.equal(codes, expected_codes)
    assert torch.equal(indices, expected_indices)
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_latents_that_are_not_numbers_stay_so_and_have_an_index_all_the_same() -> None:
    """Looking up an index that is no code would break on a whole batch."""
    for levels in ([8, 5, 5, 5], [5, 5, 5], [3, 3]):
        fsq = FSQ(levels)
        z = torch.zeros(3, len(levels))
        z[0], z[1] = float("nan"), float("inf")
        codes, indices = fsq(z)
        assert codes[0].isnan().all()
        assert codes[1:].isfinite().all()
        assert ((indices >= 0) & (indices < fsq.codebook_size)).all()


@pytest.mark.parametrize(
    ("levels", "size"),
    [
        ([8, 6, 5], 240),
        ([8, 5, 5, 5], 1000),
        ([7, 5, 5, 5, 5], 4375),
        ([8, 8, 8, 6, 5], 15360),
        ([8, 8, 8, 5, 5, 5], 64000),
    ],
)
def test_codebook_sizes_of_the_paper(levels: list[int], size: int) -> None:
    assert FSQ(levels).codebook_size == size
    assert FSQ(levels).num_dims == len(levels)


@pytest.mark.parametrize("levels", [[], [2, 5], [8, 1], [1000]])
def test_impossible_levels_are_refused(levels: list[int]) -> None:
    with pytest.raises(ValueError, match="levels"):
        FSQ(levels)


def test_a_wrong_number_of_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected latents \(..., 2\), got \(4, 3\)"):
        FSQ([5, 5])(torch.zeros(4, 3))


def test_nothing_is_stored_or_learned() -> None:
    assert not FSQ([8, 5]).state_dict()
    assert not list(FSQ([8, 5]).parameters())
