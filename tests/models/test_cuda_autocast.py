"""Losses and predictions under CUDA's own autocast, which rounds other operations to bfloat16 than the CPU's.

Fake tensors have a device, a type and a shape but no values, so no GPU is needed. Nothing is differentiated: the engine asks for a
real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from model_cases import CASES, CONTEXT, make_batch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hvqray.models.batch import Batch
from hvqray.models.build import build_model
from hvqray.models.random_stream import RandomStream


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """What `torch.autocast` does, which switches itself off where there is no GPU."""
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    try:
        assert (torch.empty(2, 2, device="cuda") @ torch.empty(2, 2, device="cuda")).dtype == torch.bfloat16
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()


def on_gpu(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device="cuda")


@pytest.fixture
def no_real_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would ask for one: generators, and gradients within a loss."""
    monkeypatch.setattr(
        RandomStream, "keep_mask", lambda self, like, keep_probability: torch.empty_like(like)
    )
    monkeypatch.setattr(RandomStream, "normal", lambda self, like: torch.empty_like(like))
    monkeypatch.setattr(
        torch.autograd, "grad", lambda outputs, inputs, *gradient, **named: (torch.empty_like(inputs),)
    )


@pytest.mark.parametrize("case", CASES)
def test_losses_and_predictions_are_float32(
    case: str, no_real_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = make_batch(4)
    assert real.images_B3HW is not None
    model: Any = build_model(CASES[case], CONTEXT)
    with FakeTensorMode():
        for module in model.modules():
            of_module = (module._parameters, lambda x: nn.Parameter(on_gpu(x))), (module._buffers, on_gpu)
            for tensors, moved in of_module:
                tensors |= {name: moved(x) for name, x in tensors.items() if x is not None}
        batch = Batch(*(on_gpu(x) for x in (real.features_BChw, real.class_index_B, real.images_B3HW)))
        with cuda_autocast():
            # Without gradients codes are looked up, where they are few.
            for enabled in (True, False):
                with torch.set_grad_enabled(enabled):
                    for objective in model.objectives:
                        losses = objective.loss(batch, progress=0.9)
                        assert {loss.dtype for loss in losses.values()} == {torch.float32}
            monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)  # no value decides the way
            prediction = model.predict(batch)
    assert (prediction.maps_BHW.dtype, prediction.scores_B.dtype) == (torch.float32, torch.float32)
