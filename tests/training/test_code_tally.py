"""Codes by class and level: who a code belongs to, and what is pooled."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest

from hvqray.metrics import codebook_use, count_codes
from hvqray.training.code_tally import CodeTally

NAMES = ("bolt", "cloth", "pill")


def tally(sizes: dict[str, int], per_class: Collection[str] = ()) -> CodeTally:
    return CodeTally(sizes, frozenset(per_class))


def test_codebooks_of_classes_are_judged_apart() -> None:
    codes = {"top": np.array([[0, 0, 0, 0], [1, 1, 3, 3]])}
    class_B = np.array([0, 2])
    of_classes = {
        "codebook/top/bolt/use": 1 / 4,
        "codebook/top/bolt/perplexity": 1,
        "codebook/top/pill/use": 2 / 4,
        "codebook/top/pill/perplexity": pytest.approx(2),
    }
    shared, own = tally({"top": 4}), tally({"top": 4}, ["top"])
    for each in (shared, own):
        each.add(codes, class_B, class_B)
    assert shared.health(NAMES) == of_classes | {
        "codebook/top/use": 0.75,
        "codebook/top/perplexity": pytest.approx(codebook_use(count_codes(codes["top"]), 4)[1]),
    }
    assert own.health(NAMES) == of_classes | {
        "codebook/top/use": (1 / 4 + 2 / 4) / 2,
        "codebook/top/perplexity": pytest.approx((1 + 2) / 2),
    }


def test_without_codes_use_is_undefined() -> None:
    assert tally({"top": 4, "q0": 4}).health(NAMES) == {
        f"codebook/{level}/{health}": None for level in ("top", "q0") for health in ("use", "perplexity")
    }


def test_pairs_of_shared_codebooks_are_pooled_and_of_own_ones_averaged() -> None:
    """In each class top tells q0, by another rule: together it does not."""
    top = np.array([[0, 1, 0, 1], [0, 1, 0, 1]])
    codes = {"top": top, "q0": np.array([[0, 1, 0, 1], [1, 0, 1, 0]])}
    class_B = np.array([0, 1])
    name = "codebook/q0/perplexity_given_top"
    for per_class, expected in (((), 2.0), (("q0",), 1.0), (("top",), 1.0), (("top", "q0"), 1.0)):
        one = tally({"top": 2, "q0": 2}, per_class)
        one.add(codes, class_B, class_B)
        health = one.health(NAMES)
        assert health[name] == pytest.approx(expected)
        assert (
            health["codebook/q0/bolt/perplexity_given_top"]
            == health["codebook/q0/cloth/perplexity_given_top"]
            == 1
        )


@pytest.mark.parametrize(("per_class", "of_pill"), [(("top",), 2.0), (("q0",), 2.0), ((), 1.0)])
def test_pairs_with_a_code_of_another_class_are_that_class_s(
    per_class: tuple[str, ...], of_pill: float
) -> None:
    """The second image is a bolt that was taken for a pill."""
    codes = {"top": np.zeros((3, 4), int), "q0": np.array([[5] * 4, [6] * 4, [7] * 4])}
    one = tally({"top": 8, "q0": 8}, per_class)
    one.add(codes, np.array([0, 0, 2]), np.array([0, 2, 2]))
    assert one.health(NAMES)["codebook/q0/pill/perplexity_given_top"] == pytest.approx(of_pill)


def test_levels_on_another_grid_have_no_pairs_with_the_top() -> None:
    codes = {"top": np.zeros((2, 4), int), "q1": np.zeros((2, 4), int), "q0": np.zeros((2, 16), int)}
    one = tally({"top": 8, "q1": 8, "q0": 8})
    one.add(codes, np.zeros(2, int), np.zeros(2, int))
    assert {name for name in one.health(NAMES) if name.endswith("given_top")} == {
        "codebook/q1/perplexity_given_top",
        "codebook/q1/bolt/perplexity_given_top",
    }


def test_parts_add_up() -> None:
    rng = np.random.default_rng(0)
    codes = {level: rng.integers(5, size=(9, 7)) for level in ("top", "q1", "q0")}
    class_B, routed_B = rng.integers(3, size=(2, 9))
    whole, parts = tally(dict.fromkeys(codes, 5), ["q1"]), tally(dict.fromkeys(codes, 5), ["q1"])
    whole.add(codes, class_B, routed_B)
    for rows in (slice(4), slice(4, None)):
        part = tally(dict.fromkeys(codes, 5), ["q1"])
        part.add({level: codes_BL[rows] for level, codes_BL in codes.items()}, class_B[rows], routed_B[rows])
        parts.update(part)
    assert parts.health(NAMES) == pytest.approx(whole.health(NAMES))
