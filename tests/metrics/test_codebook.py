"""Use and perplexity of codebooks."""

from __future__ import annotations

import numpy as np
import pytest

from hvqray.metrics.codebook import (
    CodePairs,
    add_pairs,
    codebook_use,
    count_codes,
    count_pairs,
    perplexity_given,
)


def test_even_use_of_a_quarter_of_the_codes() -> None:
    codes = np.array([[3, 7], [7, 3]])
    assert codebook_use(count_codes(codes), 8) == (0.25, pytest.approx(2.0))


def test_perplexity_is_exp_entropy() -> None:
    codes = np.repeat([0, 1, 2], [1, 2, 5])
    p = np.array([1, 2, 5]) / 8
    use, perplexity = codebook_use(count_codes(codes), 3)
    assert use == 1.0
    assert perplexity == pytest.approx(np.exp(-(p * np.log(p)).sum()))


def test_counts_of_parts_add_up() -> None:
    codes = np.random.default_rng(0).integers(0, 9, 100)
    assert count_codes(codes[:40]) + count_codes(codes[40:]) == count_codes(codes)


@pytest.mark.parametrize("codes", [[], [8], [-1]])
def test_codes_outside_the_codebook(codes: list[int]) -> None:
    with pytest.raises(ValueError, match=r"\[0, 8\)"):
        codebook_use(count_codes(np.array(codes, dtype=np.int64)), 8)


def literal_perplexity_given(upper: np.ndarray, lower: np.ndarray) -> float:
    """exp of the mean of -log p(lower | upper) over all locations."""
    logs = [
        -np.log(((upper == u) & (lower == v)).sum() / (upper == u).sum())
        for u, v in zip(upper.ravel(), lower.ravel(), strict=True)
    ]
    return float(np.exp(np.mean(logs)))


@pytest.mark.parametrize("scale", [1, 2**40])
def test_perplexity_given_the_level_above_is_that_of_a_plain_loop(scale: int) -> None:
    """Also where pairs of codes are more than int64 can number, and in parts."""
    rng = np.random.default_rng(0)
    upper = rng.integers(5, size=(6, 30)) * scale
    lower = (upper // scale + rng.integers(3, size=upper.shape)) * scale
    parts = [
        count_pairs(upper[rows], lower[rows], sizes=(5 * scale, 7 * scale))
        for rows in (slice(2), slice(2, None))
    ]
    assert perplexity_given(add_pairs(parts)) == pytest.approx(
        literal_perplexity_given(upper, lower), rel=1e-12
    )
    assert perplexity_given(parts[0]) == pytest.approx(literal_perplexity_given(upper[:2], lower[:2]))
    assert all(isinstance(part, CodePairs) for part in parts)


def test_what_the_level_above_tells_has_a_perplexity_of_one_and_what_it_does_not_its_own() -> None:
    upper = np.repeat(np.arange(4), 6)
    told = count_pairs(upper, 3 - upper, sizes=(4, 4))
    assert perplexity_given(told) == 1.0
    lower = np.tile([0, 0, 0, 1, 1, 2], 4)
    untold = count_pairs(upper, lower, sizes=(4, 4))
    assert perplexity_given(untold) == pytest.approx(codebook_use(count_codes(lower), 4)[1])
