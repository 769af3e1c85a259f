"""A whole training step of every kind of model never waits for the device.

Fake tensors have no values, so that whatever asks for one (`.item()`, a mask as index, a branch on a tensor) fails.
"""

from __future__ import annotations

import pytest
from model_cases import CASES, CONTEXT, make_batch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from hvqray.config.sections import TrainConfig
from hvqray.models.batch import Batch
from hvqray.models.build import build_model
from hvqray.training.communicator import SingleProcess
from hvqray.training.optimisation import ObjectiveTrainer


def make_fake(model: nn.Module, mode: FakeTensorMode) -> None:
    """Put fake tensors in the place of all parameters and buffers."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = nn.Parameter(mode.from_tensor(parameter.data), requires_grad=parameter.requires_grad)
                module._parameters[name] = fake
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = mode.from_tensor(buffer)


@pytest.mark.parametrize("case", CASES)
def test_a_step_of_all_objectives(case: str) -> None:
    real = make_batch(4)
    model, fake = build_model(CASES[case], CONTEXT), FakeTensorMode()
    make_fake(model, fake)
    with fake:
        assert real.images_B3HW is not None
        batch = Batch(
            *(fake.from_tensor(x) for x in (real.features_BChw, real.class_index_B, real.images_B3HW))
        )
        config = TrainConfig(precision="bf16", gradient_clip=1.0)
        trainers = [ObjectiveTrainer(objective, config, SingleProcess()) for objective in model.objectives]
        for module in (trainer.objective.module for trainer in trainers):
            module.train()
        model.random.begin_step(0, rows=slice(0, 4), num_rows=4)
        for trainer in trainers:
            losses = trainer.step(batch, progress=0.9, share=1.0)
            with pytest.raises(DataDependentOutputException):
                losses["loss"].item()
        model.after_step()
    assert {trainer.objective.active(0.9) for trainer in trainers} == {True}
