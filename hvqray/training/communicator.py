"""How the processes that train one model together exchange tensors; the training loop knows no more of them."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Communicator(Protocol):
    """The collectives that training and evaluation need."""

    rank: int
    world_size: int
    device: torch.device

    def all_reduce_sum_(self, tensor: Tensor) -> Tensor:
        """Sum `tensor` over all ranks, in place."""
        ...

    def broadcast_(self, tensor: Tensor, src: int = 0) -> Tensor:
        """Overwrite `tensor` with that of rank `src`, in place."""
        ...

    def all_gather_object(self, value: Any) -> list[Any]:
        """The `value` of every rank, in rank order, on every rank."""
        ...


class SingleProcess:
    """One process that trains alone."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.rank = 0
        self.world_size = 1
        self.device = torch.device(device)

    def all_reduce_sum_(self, tensor: Tensor) -> Tensor:
        return tensor

    def broadcast_(self, tensor: Tensor, src: int = 0) -> Tensor:
        return tensor

    def all_gather_object(self, value: Any) -> list[Any]:
        return [value]


class ProcessGroup:
    """The default `torch.distributed` process group (gloo or NCCL), which must be initialised."""

    def __init__(self, device: torch.device | str) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.device = torch.device(device)

    def all_reduce_sum_(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def broadcast_(self, tensor: Tensor, src: int = 0) -> Tensor:
        dist.broadcast(tensor.view(torch.uint8) if tensor.dtype is torch.bool else tensor, src=src)
        return tensor

    def all_gather_object(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values
