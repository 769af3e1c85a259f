"""A thread whose work a sweep can do without."""

from __future__ import annotations

import threading
from collections.abc import Callable

from hvqray.results.side_thread import SideThread


def failing(text: str) -> Callable[[], None]:
    def task() -> None:
        raise ValueError(text)

    return task


def test_tasks_are_done_in_order_before_the_end() -> None:
    said: list[str] = []
    done: list[int] = []
    side = SideThread("log", tell=said.append)
    for number in range(100):
        side.put(lambda number=number: done.append(number))
    assert side.finish(timeout_s=60)
    assert done == list(range(100))
    assert said == []


def test_the_first_fault_is_told_in_one_line_and_the_next_task_is_done() -> None:
    said: list[str] = []
    done = threading.Event()
    side = SideThread("log", tell=said.append)
    for task in (failing("no\n  server"), failing("still none"), done.set):
        side.put(task)
    assert side.finish(timeout_s=60)
    assert done.is_set()
    assert said == ["log: ValueError: no server (the sweep goes on; its results on disk are complete)"]


def test_what_finds_the_queue_full_is_dropped() -> None:
    said: list[str] = []
    done: list[int] = []
    begun, free = threading.Event(), threading.Event()
    side = SideThread("log", tell=said.append, queue_size=2)
    side.put(lambda: (begun.set(), free.wait(60)))
    assert begun.wait(60)
    for number in range(4):
        side.put(lambda number=number: done.append(number))
    free.set()
    assert side.finish(timeout_s=60)
    assert done == [0, 1]
    assert [line.partition(";")[0] for line in said] == ["log: too slow to keep up"]


def test_an_end_that_takes_too_long_is_given_up() -> None:
    said: list[str] = []
    done: list[int] = []
    begun, free = threading.Event(), threading.Event()
    side = SideThread("log", tell=said.append)
    side.put(lambda: (begun.set(), free.wait(60)))
    side.put(lambda: done.append(1))
    assert begun.wait(60)
    assert not side.finish(timeout_s=0.1)
    assert said == ["log: not everything was sent within 0 s (the results on disk are complete)"]
    free.set()
    side.put(lambda: done.append(2))
    assert side.finish(timeout_s=60) is False
    assert done == [], "neither what waited nor what came later"
