"""An epoch's steps, by a model whose losses are known beforehand."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from tiny_data import tiny_data
from torch import Tensor, nn

from hvqray.config.sections import TrainConfig
from hvqray.data.dataset import Split
from hvqray.models.batch import Batch
from hvqray.models.interface import AnomalyModel, Objective
from hvqray.training import sampling
from hvqray.training.communicator import SingleProcess
from hvqray.training.epoch_trainer import EpochTrainer

BATCH = 6
CONFIG = TrainConfig(epochs=4, batch_size=BATCH, lr=1e-9, precision="fp32", schedule="constant")


class Draws:
    """Notes what every step is told of its random numbers."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def begin_step(self, seed: int, *, rows: slice, num_rows: int) -> None:
        self.steps.append((seed, num_rows))


class ByClass(nn.Module):
    """Its loss is the mean class of a batch, times a weight that hardly moves from 1."""

    needs_images = False

    def __init__(self, *, adversary_from: float | None = None, broken_from: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.other = nn.Module()
        self.other.weight = nn.Parameter(torch.ones(()))
        self.num_after = 0
        self._broken_from = broken_from
        main = nn.Module()
        main.weight = self.weight
        self.objectives = [Objective("main", main, self._main)]
        if adversary_from is not None:
            self.objectives.append(
                Objective("adversary", self.other, self._adversary, active=lambda p: p >= adversary_from)
            )
        self.random = Draws()

    @property
    def steps(self) -> list[tuple[int, int]]:
        return self.random.steps

    def after_step(self) -> None:
        self.num_after += 1

    def _main(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        assert batch.class_index_B is not None
        loss = batch.class_index_B.float().mean() * self.weight
        if self._broken_from is not None and len(self.steps) > self._broken_from:
            loss = loss * float("nan")
        return {"loss": loss, "double": 2 * loss}

    def _adversary(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        return {"loss": progress * self.other.weight}


def trainer_of(model: ByClass, **train: Any) -> tuple[EpochTrainer, Split, TrainConfig]:
    split, config = tiny_data().splits["train"], CONFIG.model_copy(update=train)
    return EpochTrainer(cast("AnomalyModel", model), split, config, SingleProcess()), split, config


def batches_of(split: Split, config: TrainConfig, epoch: int) -> list[np.ndarray]:
    indices = sampling.epoch_indices(
        split.class_index,
        epoch=epoch,
        seed=config.seed,
        images_per_epoch=config.images_per_epoch,
        class_balance=config.class_balance,
    )
    return list(sampling.batches(indices, batch_size=config.batch_size))


@pytest.mark.parametrize("images_per_epoch", [None, 13, 4])
def test_losses_are_means_over_the_steps_of_the_epoch(images_per_epoch: int | None) -> None:
    model = ByClass()
    trainer, split, config = trainer_of(model, images_per_epoch=images_per_epoch)
    for epoch in range(2):
        means = [split.class_index[batch].mean() for batch in batches_of(split, config, epoch)]
        losses = trainer.train(epoch)
        assert losses == {
            "train/double": pytest.approx(2 * np.mean(means), rel=1e-6),
            "train/loss": pytest.approx(np.mean(means), rel=1e-6),
        }
    num_steps = 2 * len(means)
    assert model.num_after == len(model.steps) == num_steps
    assert {size for _, size in model.steps} == {min(BATCH, images_per_epoch or BATCH)}
    assert len({seed for seed, _ in model.steps}) == num_steps, "each step draws anew"


def test_an_objective_that_joins_later_has_the_mean_of_its_own_steps() -> None:
    """4 epochs of 4 steps: progress 6/16 and on lies in the midst of the second."""
    trainer, _, _ = trainer_of(ByClass(adversary_from=6 / 16), images_per_epoch=24)
    assert trainer.train(0).keys() == {"train/main_loss", "train/double"}
    assert trainer.train(1)["train/adversary_loss"] == pytest.approx((6 + 7) / 2 / 16)
    assert trainer.train(2)["train/adversary_loss"] == pytest.approx((8 + 9 + 10 + 11) / 4 / 16)


def test_what_is_not_finite_is_named_with_its_epoch() -> None:
    trainer, _, _ = trainer_of(ByClass(broken_from=5), images_per_epoch=24)
    trainer.train(0)
    with pytest.raises(FloatingPointError, match=r"training diverged in epoch 2: double, loss, weights not"):
        trainer.train(1)


def test_a_step_s_draws_depend_on_the_seed_and_the_step_alone() -> None:
    seeds = {}
    for seed in (0, 1):
        model = ByClass()
        trainer_of(model, seed=seed)[0].train(1)
        again = ByClass()
        trainer_of(again, seed=seed)[0].train(1)  # the first epoch of a run that was resumed
        assert model.steps == again.steps
        seeds[seed] = {drawn for drawn, _ in model.steps}
    assert seeds[0].isdisjoint(seeds[1])


def test_optimisers_go_on_where_they_were() -> None:
    def weight_after(*, new_trainer: bool, with_states: bool = False) -> float:
        model = ByClass(adversary_from=0.0)
        trainer, _, _ = trainer_of(model, lr=1e-2)
        trainer.train(0)
        if new_trainer:
            states = trainer.optimizer_states()
            assert len(states) == 2
            trainer, _, _ = trainer_of(model, lr=1e-2)
            if with_states:
                trainer.load_optimizer_states(states)
        trainer.train(1)
        return model.weight.item()

    expected = weight_after(new_trainer=False)
    assert weight_after(new_trainer=True, with_states=True) == expected
    assert weight_after(new_trainer=True) != expected
