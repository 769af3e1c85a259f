"""Arithmetic as exact as its type says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cudnn


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Inside the block convolutions of float32 tensors are float32 on GPUs too, where cuDNN would round to TF32's 10 bits.

    Scores are compared with thresholds that another process, perhaps on a CPU, has found. Nothing changes while a model is
    exported, for the setting is none of the model's operations.
    """
    if torch.compiler.is_exporting():
        yield
        return
    with cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        benchmark_limit=cudnn.benchmark_limit,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    ):
        yield
