"""Two processes in one gloo group, for what several workers do together."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_two_ranks(function: Callable[..., None], port: int, *arguments: Any) -> None:
    """Call `function(rank, *arguments)` in two new processes that form the default process group; errors are raised here."""
    mp.spawn(_rank, args=(port, function, arguments), nprocs=2)


def _rank(rank: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    function(rank, *arguments)
    dist.barrier()
    # gloo's threads now and then abort the interpreter on its way out, long after everything that is tested.
    sys.stdout.flush()
    os._exit(0)
