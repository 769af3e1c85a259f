"""The memory of one run: its peaks, on the machine and on the GPU, and its bound where several slots share the GPU."""

from __future__ import annotations

import gc
from collections.abc import Iterable

import torch

from hvqray.errors import InputError
from hvqray.process_memory import keep_freed_memory, peak_resident_bytes, restart_peak
from hvqray.training.communicator import Communicator

CONTEXT_BYTES = 2**30
"""Set aside on a shared GPU for each process's CUDA context and loaded kernels, which no allocator sees: a generous guess."""


def slot_bytes(total_bytes: int, share: float) -> int:
    """What the allocator of a slot may reserve of a GPU with `total_bytes`, of which the slot has `share` (between 0 and 1).

    The slots' bounds, a context for each slot and one for the driver, which builds the feature cache on the same GPU, are
    together at most `total_bytes` if the shares are at most 1.

    Raises:
        InputError: Nothing would be left.
    """
    bound = int(share * (total_bytes - CONTEXT_BYTES)) - CONTEXT_BYTES
    if bound <= 0:
        raise InputError(
            f"{share:g} of a GPU with {total_bytes / 1e9:.1f} GB leaves nothing beside a worker's own CUDA context;"
            " raise it",
            field="resources.gpus_per_worker",
        )
    return bound


def bound_slot(device: torch.device, gpus: float) -> None:
    """Keep this process to its part of a GPU that it shares; beyond it, it runs out of memory and its neighbours do not.

    `gpus` is the worker's number of GPUs. Whole ones are shared with nobody, so they are not bounded.

    Raises:
        InputError: The share is too small for any work.
    """
    if 0 < gpus < 1:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(slot_bytes(total, gpus) / total, _index(device))


def begin_run(device: torch.device) -> None:
    """Let the peaks begin anew, in a process that may have run others before."""
    # Models refer to their own losses, and are freed only by the collector, which seldom runs: a few objects hold gigabytes.
    gc.collect()
    keep_freed_memory()
    restart_peak()
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the last run reserved is not this one's
        torch.cuda.reset_peak_memory_stats(device)


def peaks(communicator: Communicator) -> tuple[int | None, int | None]:
    """The most bytes that a process of the run has held since `begin_run`: resident, and reserved on its GPU.

    With several workers each is the largest among them, equal on every rank. The GPU's counts what the allocator reserved, as the
    bound does, hence without the CUDA context.
    """
    device = communicator.device
    on_gpu = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None
    of_ranks = communicator.all_gather_object((peak_resident_bytes(), on_gpu))
    return _most(host for host, _ in of_ranks), _most(gpu for _, gpu in of_ranks)


def gpu_limit(device: torch.device) -> int | None:
    """What `bound_slot` allows this process in bytes; None where it is not bounded, or has no GPU."""
    if device.type != "cuda":
        return None
    fraction = torch.cuda.get_per_process_memory_fraction(_index(device))
    return round(fraction * torch.cuda.get_device_properties(device).total_memory) if fraction < 1 else None


def _index(device: torch.device) -> int:
    """Some functions of `torch.cuda` refuse `cuda` without a number."""
    return torch.cuda.current_device() if device.index is None else device.index


def _most(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
