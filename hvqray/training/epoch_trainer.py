"""One epoch's optimisation steps: its images, their share among the ranks, and the means of its losses. Imports no Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from hvqray.config.sections import TrainConfig
from hvqray.data.dataset import Split
from hvqray.models.interface import AnomalyModel
from hvqray.training import sampling
from hvqray.training.batches import make_batch
from hvqray.training.communicator import Communicator
from hvqray.training.optimisation import ObjectiveTrainer


class EpochTrainer:
    """Trains `model` on `split`, an epoch a call; ranks must agree on the model when it is made."""

    def __init__(
        self, model: AnomalyModel, split: Split, config: TrainConfig, communicator: Communicator
    ) -> None:
        assert isinstance(model, nn.Module)
        self._module: nn.Module = model
        self._model: AnomalyModel = model
        self._split, self._config, self._communicator = split, config, communicator
        num_images = config.images_per_epoch or len(split)
        self._steps_per_epoch = sampling.num_batches(num_images, batch_size=config.batch_size)
        self._trainers = [ObjectiveTrainer(objective, config, communicator) for objective in model.objectives]

    def optimizer_states(self) -> list[dict[str, Any]]:
        """The state of each objective's optimiser."""
        return [trainer.optimizer.state_dict() for trainer in self._trainers]

    def load_optimizer_states(self, states: list[dict[str, Any]]) -> None:
        """Go on from what `optimizer_states` gave."""
        for trainer, state in zip(self._trainers, states, strict=True):
            trainer.optimizer.load_state_dict(state)

    def train(self, epoch: int) -> dict[str, float | None]:
        """Train epoch number `epoch`, counted from 0; returns the means of its losses, `train/NAME`.

        Raises:
            FloatingPointError: A loss or the weights are not finite.
        """
        config, communicator = self._config, self._communicator
        indices = sampling.epoch_indices(
            self._split.class_index,
            epoch=epoch,
            seed=config.seed,
            images_per_epoch=config.images_per_epoch,
            class_balance=config.class_balance,
        )
        totals: dict[str, Tensor] = {}
        num_steps: Counter[str] = Counter()
        self._module.train()
        for step, batch_indices in enumerate(sampling.batches(indices, batch_size=config.batch_size)):
            global_step = epoch * self._steps_per_epoch + step
            progress = global_step / (self._steps_per_epoch * config.epochs)
            size = len(batch_indices)
            rows = sampling.rank_rows(size, rank=communicator.rank, world_size=communicator.world_size)
            batch = make_batch(
                self._split, batch_indices[rows], device=communicator.device, images=self._model.needs_images
            )
            share = (rows.stop - rows.start) * communicator.world_size / size
            self._model.random.begin_step(_step_seed(config.seed, global_step), rows=rows, num_rows=size)
            for trainer in self._trainers:
                if not trainer.objective.active(progress):
                    continue
                for name, value in trainer.step(batch, progress=progress, share=share).items():
                    if name == "loss" and len(self._trainers) > 1:
                        name = f"{trainer.objective.name}_loss"
                    totals[name] = totals.get(name, 0.0) + value.float() * share
                    num_steps[name] += 1
            self._model.after_step()
        return self._mean_losses(totals, num_steps, epoch)

    def _mean_losses(
        self, totals: dict[str, Tensor], num_steps: Mapping[str, int], epoch: int
    ) -> dict[str, float | None]:
        """Means over all ranks and the steps of the epoch that have the loss: an adversary may join in its midst.

        The only time an epoch waits for the device.
        """
        names = sorted(totals)
        sums = [totals[name] / num_steps[name] for name in names]
        # The losses do not see what the last step made of the weights.
        sums.append(get_total_norm([weight.detach() for weight in self._module.parameters()]))
        stacked = torch.stack(sums) / self._communicator.world_size
        *values, weight_norm = self._communicator.all_reduce_sum_(stacked).tolist()
        measured = [*zip(names, values, strict=True), ("weights", weight_norm)]
        if broken := [name for name, value in measured if not np.isfinite(value)]:
            raise FloatingPointError(
                f"training diverged in epoch {epoch + 1}: {', '.join(broken)} not finite"
            )
        return {f"train/{name}": value for name, value in zip(names, values, strict=True)}


def _step_seed(seed: int, step: int) -> int:
    """A seed for the draws of one step; steps of different seeds never coincide by counting on."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)
