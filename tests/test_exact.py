"""Convolutions of float32 are float32: the setting that cuDNN reads is looked at, which needs no GPU."""

from __future__ import annotations

import pytest
import torch
from torch.backends import cudnn
from torch.nn import functional as F

from hvqray.config.data_sections import BackboneConfig
from hvqray.config.sections import TrainConfig
from hvqray.data.backbones import load_backbone
from hvqray.exact import exact_convolutions
from hvqray.models.map_ops import gaussian_smooth
from hvqray.training.optimisation import autocast

CPU = torch.device("cpu")


@pytest.fixture
def tf32_in_convolutions(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether TF32 was allowed, for every convolution that is called."""
    seen: list[bool] = []
    original = F.conv2d

    def conv2d(*arguments: torch.Tensor, **options: torch.Tensor) -> torch.Tensor:
        seen.append(cudnn.allow_tf32)
        return original(*arguments, **options)

    monkeypatch.setattr(F, "conv2d", conv2d)
    with cudnn.flags(enabled=True, allow_tf32=True):  # PyTorch's default
        yield seen


def test_inside_the_block_alone_and_nothing_else_changes() -> None:
    with cudnn.flags(enabled=True, benchmark=True, deterministic=True, allow_tf32=True):
        with exact_convolutions():
            assert not cudnn.allow_tf32
            assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic) == (True, True, True)
        assert cudnn.allow_tf32


def test_features_and_smoothed_maps(tf32_in_convolutions: list[bool]) -> None:
    backbone = load_backbone(BackboneConfig(weights="random", strides=[8]), 64)
    tf32_in_convolutions.clear()  # folding has tried it out, on the CPU
    backbone(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    gaussian_smooth(torch.rand(1, 20, 20), 2.0)
    assert len(tf32_in_convolutions) > 5
    assert not any(tf32_in_convolutions)


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("bf16", True)])
def test_training_in_fp32(precision: str, allowed: bool) -> None:
    with cudnn.flags(enabled=True, allow_tf32=True), autocast(TrainConfig(precision=precision), CPU):
        assert cudnn.allow_tf32 == allowed


def test_gradients_of_a_step_in_fp32() -> None:
    from hvqray.models.batch import Batch
    from hvqray.models.interface import Objective
    from hvqray.training.communicator import SingleProcess
    from hvqray.training.optimisation import ObjectiveTrainer

    seen: list[bool] = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: torch.autograd.function.FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
            seen.append(cudnn.allow_tf32)
            return gradient

    module = torch.nn.Linear(2, 1)

    def loss(batch: Batch, progress: float) -> dict[str, torch.Tensor]:
        return {"loss": Watched.apply(module(batch.features_BChw.flatten(1))).sum()}

    objective = Objective("line", module, loss, lambda progress: True)
    trainer = ObjectiveTrainer(objective, TrainConfig(precision="fp32"), SingleProcess())
    batch = Batch(torch.ones(1, 2, 1, 1), torch.zeros(1, dtype=torch.long), None)
    with cudnn.flags(enabled=True, allow_tf32=True):
        trainer.step(batch, progress=0.0, share=1.0)
    assert seen == [False]
