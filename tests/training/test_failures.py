"""Which failures are worth a new process."""

from __future__ import annotations

import pytest
import torch

from hvqray.training.failures import WorkersDied, needs_new_process


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (WorkersDied("rank 1"), True),
        (torch.AcceleratorError("device-side assert triggered"), True),
        (torch.OutOfMemoryError("out of memory"), False),
        (RuntimeError("shapes do not match"), False),
        (FloatingPointError("diverged"), False),
        (ValueError("no"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_needs_new_process(error: Exception, expected: bool) -> None:
    assert needs_new_process(error) is expected
