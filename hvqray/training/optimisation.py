"""Optimisers and what surrounds a step: schedule, precision, gradient exchange."""

from __future__ import annotations

import math
import warnings
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hvqray.config.sections import TrainConfig
from hvqray.exact import exact_convolutions
from hvqray.models.batch import Batch
from hvqray.models.interface import Objective
from hvqray.training.adamw import AdamW
from hvqray.training.communicator import Communicator


def learning_rate(config: TrainConfig, progress: float) -> float:
    """Learning rate at `progress` in [0, 1) through the run."""
    if config.schedule == "step":
        return config.lr * (0.1 if progress >= 0.8 else 1.0)
    if progress < config.warmup_fraction:
        return config.lr * max(progress / config.warmup_fraction, 0.01)
    if config.schedule == "constant":
        return config.lr
    after_warmup = (progress - config.warmup_fraction) / (1 - config.warmup_fraction)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * after_warmup)))


def uses_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Whether the trained model computes in bf16 (`auto`: only where the processor multiplies it natively)."""
    if config.precision != "auto":
        return config.precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which losses and predictions are computed."""
    return (
        torch.autocast(device.type, torch.bfloat16) if uses_bfloat16(config, device) else exact_convolutions()
    )


class _LossModule(nn.Module):
    """An objective as a module, so that DDP sees its forward; `batch` goes beside the arguments, untouched by DDP."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.owner = objective.module
        self._loss = objective.loss
        self.batch: Batch | None = None

    def forward(self, progress: float) -> dict[str, Tensor]:
        assert self.batch is not None
        return self._loss(self.batch, progress)


class ObjectiveTrainer:
    """One objective with its AdamW, wrapped in DDP where several processes train together."""

    def __init__(self, objective: Objective, config: TrainConfig, communicator: Communicator) -> None:
        self.objective = objective
        self._config = config
        self._communicator = communicator
        self._parameters = [p for p in objective.module.parameters() if p.requires_grad]
        self.optimizer: torch.optim.Optimizer = AdamW(
            self._parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self._loss_module = _LossModule(objective)
        self._forward: nn.Module = (
            _distributed(self._loss_module) if communicator.world_size > 1 else self._loss_module
        )

    def step(self, batch: Batch, *, progress: float, share: float) -> dict[str, Tensor]:
        """One optimisation step; returns the objective's detached losses.

        `share` is this rank's images x world size / images of the global batch: DDP averages over ranks, and with this
        factor that is the mean over all images, however unevenly they are split.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self._config, progress)
        self.optimizer.zero_grad(set_to_none=True)
        self._loss_module.batch = batch
        with autocast(self._config, self._communicator.device):
            losses = self._forward(progress)
        with exact_convolutions():
            (losses["loss"] * share).backward()
        if self._config.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._config.gradient_clip)
        self.optimizer.step()
        return {name: value.detach() for name, value in losses.items()}


def _distributed(module: nn.Module) -> nn.Module:
    """`module` in DDP. Buffers are kept equal by the model's own collectives, so DDP must not overwrite them."""
    with warnings.catch_warnings():
        # torch 2.15 renames the argument; the new name does not exist in the older releases that are supported.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
        return DistributedDataParallel(module, broadcast_buffers=False)
