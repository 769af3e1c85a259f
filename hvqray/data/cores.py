"""Who computes with how many cores: a trial with its own, the build of a cache before a search with all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Inside the block torch computes, and the cache's images are decoded, with `number` threads.

    Without it a driver that Ray started, whose environment has OMP_NUM_THREADS=1, would build with one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
