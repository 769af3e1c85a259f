"""Use and perplexity of codebooks."""

from __future__ import annotations

import numpy as np
import pytest

from hvqray.metrics.codebook import codebook_use, count_codes


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
