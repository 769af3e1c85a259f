"""Schedules, clipping, precision and a step's share of the global batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hvqray.config.sections import TrainConfig
from hvqray.models.batch import Batch
from hvqray.models.interface import Objective
from hvqray.training.communicator import SingleProcess
from hvqray.training.optimisation import ObjectiveTrainer, autocast, learning_rate, uses_bfloat16

CPU = torch.device("cpu")
NEARLY_1 = 1 - 1e-9


def train(**fields: Any) -> TrainConfig:
    return TrainConfig.model_validate({"lr": 0.01, "precision": "fp32", "warmup_fraction": 0.0, **fields})


def test_constant() -> None:
    assert {learning_rate(train(schedule="constant"), p) for p in (0.0, 0.5, NEARLY_1)} == {0.01}


def test_step_falls_to_a_tenth_at_80_percent_and_never_warms_up() -> None:
    config = train(schedule="step", warmup_fraction=0.5)
    assert [learning_rate(config, p) for p in (0.0, 0.799)] == [0.01, 0.01]
    assert [learning_rate(config, p) for p in (0.8, NEARLY_1)] == pytest.approx([0.001, 0.001])


def test_cosine_falls_from_the_peak_over_its_middle_to_one_percent() -> None:
    config = train(schedule="cosine")
    found = [learning_rate(config, p) for p in (0.0, 0.5, NEARLY_1)]
    assert found == pytest.approx([0.01, 0.01 * (1 + 0.01) / 2, 0.0001])
    curve = [learning_rate(config, p) for p in np.linspace(0, NEARLY_1, 50)]
    assert curve == sorted(curve, reverse=True)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warm_up_is_linear_and_ends_at_the_peak(schedule: str) -> None:
    config = train(schedule=schedule, warmup_fraction=0.2)
    assert [learning_rate(config, p) for p in (0.05, 0.1, 0.15)] == pytest.approx([0.0025, 0.005, 0.0075])
    assert learning_rate(config, 0.2) == pytest.approx(0.01)
    assert 0 < learning_rate(config, 0.0) <= 0.0001, "the first step must not be lost"
    if schedule == "cosine":
        assert learning_rate(config, 0.6) == pytest.approx(0.01 * 1.01 / 2)
        assert learning_rate(config, NEARLY_1) == pytest.approx(0.0001)


def test_a_run_may_be_all_warm_up() -> None:
    assert learning_rate(train(warmup_fraction=1.0), NEARLY_1) == pytest.approx(0.01)


class Line(nn.Module):
    """One weight w per coordinate; its loss is the batch's mean of w . x, whose gradient is the mean of x."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.progress: list[float] = []
        self.dtypes: list[torch.dtype] = []

    def loss(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        self.progress.append(progress)
        x_BC = batch.features_BChw.flatten(1)
        self.dtypes.append((x_BC @ x_BC.T).dtype)
        loss = (x_BC * self.weight).sum(1).mean()
        return {"loss": loss, "part": loss.detach() + 1}


def trainer_of(config: TrainConfig) -> tuple[ObjectiveTrainer, Line]:
    line = Line()
    return ObjectiveTrainer(Objective("line", line, line.loss), config, SingleProcess()), line


def batch(*rows: tuple[float, float]) -> Batch:
    features = torch.tensor(rows).view(-1, 2, 1, 1)
    return Batch(features, torch.zeros(len(rows), dtype=torch.int64))


def gradient(trainer: ObjectiveTrainer, line: Line, one: Batch, *, share: float = 1.0) -> list[float]:
    trainer.step(one, progress=0.0, share=share)
    assert line.weight.grad is not None
    return line.weight.grad.tolist()


def test_gradients_are_clipped_to_their_norm_and_no_longer_than_they_are() -> None:
    for clip, expected in ((1.0, [0.6, 0.8]), (10.0, [3.0, 4.0]), (None, [3.0, 4.0])):
        assert gradient(*trainer_of(train(gradient_clip=clip)), batch((3.0, 4.0))) == pytest.approx(expected)


def test_shares_make_the_mean_over_ranks_the_mean_over_all_images() -> None:
    rows = [(1.0, 2.0), (3.0, -1.0), (5.0, 0.5), (-2.0, 4.0), (0.0, 8.0)]
    config = train(gradient_clip=None)
    whole = gradient(*trainer_of(config), batch(*rows))
    parts = [
        gradient(*trainer_of(config), batch(*part), share=len(part) * 2 / 5) for part in (rows[:2], rows[2:])
    ]
    assert np.mean(parts, axis=0).tolist() == pytest.approx(whole)


def test_a_step_is_adamw_s_at_the_scheduled_rate() -> None:
    config = train(schedule="step", weight_decay=0.1, gradient_clip=None)
    trainer, line = trainer_of(config)
    reference = nn.Parameter(torch.zeros(2))
    adamw = torch.optim.AdamW([reference], lr=0.01, weight_decay=0.1)
    for progress, rate, row in ((0.0, 0.01, (3.0, 4.0)), (0.5, 0.01, (1.0, -2.0)), (0.9, 0.001, (2.0, 2.0))):
        losses = trainer.step(batch(row), progress=progress, share=1.0)
        adamw.param_groups[0]["lr"] = rate
        reference.grad = torch.tensor(row)
        adamw.step()
        torch.testing.assert_close(line.weight.data, reference.data)
        assert losses.keys() == {"loss", "part"}
        assert not any(value.requires_grad for value in losses.values())
    assert line.progress == [0.0, 0.5, 0.9]
    assert line.frozen.grad is None
    assert line.frozen.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_losses_are_computed_in_the_chosen_precision(precision: str, dtype: torch.dtype) -> None:
    trainer, line = trainer_of(train(precision=precision))
    trainer.step(batch((1.0, 2.0), (3.0, 4.0)), progress=0.0, share=1.0)
    assert line.dtypes == [dtype]
    assert line.weight.dtype == torch.float32


def test_autocast_is_off_outside_its_block() -> None:
    with autocast(train(precision="bf16"), CPU):
        assert torch.is_autocast_enabled("cpu")
    with autocast(train(precision="fp32"), CPU):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_auto_is_bf16_only_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, avx512: bool, amx: bool, expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert uses_bfloat16(train(precision="auto"), CPU) is expected
    assert uses_bfloat16(train(precision="bf16"), CPU)
    assert not uses_bfloat16(train(precision="fp32"), CPU)
