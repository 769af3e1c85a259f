from __future__ import annotations

from hvqray.results.history import TrialRecord
from hvqray.results.ranking import is_better, ranked


def trial(number: int, value: float | None, state: str = "COMPLETE") -> TrialRecord:
    return TrialRecord(f"t{number}", number, state, {}, {"m": value, "n": number}, 1, 1.0, "h", 0, None, "v")


def test_order() -> None:
    trials = [
        trial(0, 0.2),
        trial(1, None),
        trial(2, 0.9, "PRUNED"),
        trial(3, 0.5),
        trial(4, None, "FAIL"),
        trial(5, 0.5),
    ]
    assert [each.number for each in ranked(trials, {"m": "maximize", "n": "minimize"})] == [3, 5, 0, 1, 2, 4]
    assert [each.number for each in ranked(trials, {"m": "minimize"})] == [0, 3, 5, 1, 2, 4]


def test_is_better() -> None:
    assert is_better(0.1, None, "maximize")
    assert not is_better(None, None, "maximize")
    assert not is_better(None, 0.1, "minimize")
    assert is_better(0.2, 0.1, "maximize")
    assert not is_better(0.2, 0.2, "maximize")
    assert is_better(0.1, 0.2, "minimize")
