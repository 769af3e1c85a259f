"""How messages count."""

from __future__ import annotations

import pytest

from hvqray.errors import counted


@pytest.mark.parametrize(("amount", "text"), [(0, "0 trials"), (1, "1 trial"), (2, "2 trials")])
def test_counted(amount: int, text: str) -> None:
    assert counted(amount, "trial") == text


def test_counted_classes() -> None:
    assert (counted(1, "class"), counted(2, "class")) == ("1 class", "2 classes")
