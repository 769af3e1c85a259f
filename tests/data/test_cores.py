"""Threads for the time of a build."""

from __future__ import annotations

import contextlib
import os

import torch

from hvqray.data.cores import torch_threads
from hvqray.environment import usable_cores


def test_threads_are_as_before_after_the_block() -> None:
    before = torch.get_num_threads()
    with contextlib.suppress(ZeroDivisionError), torch_threads(before + 2):
        assert torch.get_num_threads() == before + 2
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_cores_that_the_process_is_not_bound_to_do_not_count() -> None:
    bound = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(bound)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, bound)
