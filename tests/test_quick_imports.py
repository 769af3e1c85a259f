"""Pausing the garbage collector while modules are imported."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from hvqray.quick_imports import collection_paused


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """As it was, whatever the test does: other tests in this process want their garbage collected."""
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_meanwhile_nor_looked_at_later() -> None:
    gc.unfreeze()
    with collection_paused():
        assert not gc.isenabled()
        made: list[list[int]] = [[] for _ in range(3)]
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    assert not any(each is made for each in gc.get_objects()), "frozen objects are left out"


def test_at_the_end_of_the_process_all_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extension modules otherwise report on standard error that they leak."""
    at_exit: list[object] = []
    monkeypatch.setattr("atexit.register", at_exit.append)
    with collection_paused():
        pass
    assert at_exit == [gc.unfreeze]


def test_after_a_fault_it_goes_on() -> None:
    with pytest.raises(ImportError), collection_paused():
        raise ImportError
    assert gc.isenabled()


def test_where_it_is_off_it_stays_off_and_nothing_is_frozen() -> None:
    gc.unfreeze()
    gc.disable()
    with collection_paused():
        pass
    assert not gc.isenabled()
    assert gc.get_freeze_count() == 0
