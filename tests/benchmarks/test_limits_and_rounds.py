"""Medians, ratios and gaps, on numbers made up by hand."""

from __future__ import annotations

import pytest
import torch

from benchmarks.commands import gaps
from benchmarks.measure import Limits, Rounds, count_flops, interleave


def test_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() -> None:
    # The second round was slow for both; the ratio of the medians would be 20 / 2 = 10 all the same, that of means not.
    rounds = Rounds({"slow": [10, 90, 20, 40, 12], "fast": [1, 9, 4, 2, 3]})
    assert rounds.ratio("slow", "fast") == "10 (5 to 10)"
    assert rounds.seconds("slow") == 20


def test_share_of_rate_is_in_per_cent_of_the_probe_of_the_same_round() -> None:
    rounds = Rounds({"step": [2.0, 4.0], "probe": [1.0, 2.0]})
    # 50 in 2 s against 100 in 1 s.
    assert rounds.share_of_rate("step", 50, "probe", 100) == "25 (25 to 25) %"


def test_interleave_runs_every_work_once_a_round_after_one_uncounted_round() -> None:
    calls: list[str] = []
    rounds = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b", "a", "b", "b", "a"]
    assert rounds.seconds("a") >= 0


def test_flops_of_a_product_are_counted_as_the_limit_counts_them() -> None:
    limits = Limits("cpu", quick=True)
    a = torch.ones(256, 256)
    assert count_flops(lambda: a @ a) == limits.flops == 2 * 256**3


def test_gaps_lie_between_trials_whatever_process_they_ran_in() -> None:
    steps = [(0.0, 1), (0.1, 2), (5.0, 1), (5.1, 2), (6.0, 3), (6.5, 4)]
    assert gaps(steps, per_trial=2) == pytest.approx([4.9, 0.9])


def test_gaps_refuse_steps_of_half_a_trial() -> None:
    with pytest.raises(AssertionError, match="3 steps"):
        gaps([(0.0, 1), (1.0, 1), (2.0, 1)], per_trial=2)
