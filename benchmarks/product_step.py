"""This project's training step, put together from the parts that `hvqray.training.loop` puts together."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.problems import Problem
from hvqray.data.dataset import Split
from hvqray.models.build import build_model
from hvqray.training.batches import make_batch
from hvqray.training.communicator import SingleProcess
from hvqray.training.optimisation import ObjectiveTrainer

ADVERSARIAL = 0.5
"""A progress through the run at which SQUAD's discriminator takes part."""


class ProductStep:
    """A model with its optimisers; calling it makes one optimisation step on the next batch of `split`."""

    def __init__(self, problem: Problem, split: Split, *, precision: str, device: str, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.split, self.batch_size, self.device = split, problem.batch_size, device
        self.train_config = problem.train_config(precision)
        self.model = build_model(problem.model, problem.context, device=device)
        rows = np.arange(min(len(split), 4 * problem.batch_size))
        reference = make_batch(split, rows, device=device, images=self.model.needs_images)
        self.model.prepare(lambda: iter([reference]), seed=seed)
        self.model.train()
        communicator = SingleProcess(device)
        self.trainers = [ObjectiveTrainer(x, self.train_config, communicator) for x in self.model.objectives]
        self.steps_done = 0
        self.first_draw = 0
        """Seed of the first step's dropout and noise; each step has the next."""

    def __call__(self) -> dict[str, torch.Tensor]:
        """The losses of the first objective, on the device."""
        start = self.steps_done * self.batch_size
        indices = np.arange(start, start + self.batch_size) % len(self.split)
        batch = make_batch(self.split, indices, device=self.device, images=self.model.needs_images)
        self.model.random.begin_step(
            self.first_draw + self.steps_done, rows=slice(None), num_rows=self.batch_size
        )
        losses = [trainer.step(batch, progress=ADVERSARIAL, share=1.0) for trainer in self.trainers]
        self.model.after_step()
        self.steps_done += 1
        return losses[0]
