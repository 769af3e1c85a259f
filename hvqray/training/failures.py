"""Which failures a fresh process can mend."""

from __future__ import annotations

import torch


class WorkersDied(RuntimeError):
    """A worker process was lost; the run can go on from its checkpoint in a new group."""


def needs_new_process(error: BaseException) -> bool:
    """Whether trying again in a new process makes sense: lost workers, or an accelerator left in error.

    Running out of GPU memory is neither: the same configuration would run out again.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, WorkersDied | torch.AcceleratorError)
