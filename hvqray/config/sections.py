"""The typed sections of a run's configuration; one run is fully described by a `RunConfig`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from hvqray.config.data_sections import DataConfig
from hvqray.config.model_sections import HvqConfig, ModelConfig
from hvqray.config.section import (
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
    Seed,
    distinct,
)


class TrainConfig(Section):
    """How one configuration is trained."""

    epochs: PositiveInt = 8
    """Passes over the training images (see `images_per_epoch`)."""
    images_per_epoch: PositiveInt | None = None
    """Training images drawn per epoch, without repetition until all have been drawn; null means all."""
    class_balance: Fraction = 0.0
    """0 draws images uniformly, 1 draws every class equally often. In between, a class with n_c images is drawn in proportion to n_c ** (1 - class_balance)."""
    batch_size: PositiveInt = 16
    """Images per optimisation step, over all workers. The incomplete last batch of an epoch is dropped, unless the epoch has fewer images than a batch."""
    lr: PositiveFloat = 1e-3
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "step", "cosine"] = "cosine"
    """Learning rate over the run: `constant`; `step`, x0.1 at 80 % of the steps (the paper's); `cosine`, to 1 % after the warm-up."""
    warmup_fraction: Fraction = 0.05
    """Share of all steps in which the learning rate rises linearly from 0 (not with `step`)."""
    weight_decay: NonNegativeFloat = 1e-4
    """AdamW's weight decay."""
    gradient_clip: PositiveFloat | None = 1.0
    """Largest gradient norm; the paper's is 0.1; null switches clipping off."""
    calibration_images: PositiveInt | None = 48
    """Normal training images per class, spread evenly, on which the map is calibrated (the errors of normal images, the coreset); null means all."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the trained model; `auto` is bf16 if the processor multiplies it natively, else fp32."""
    evaluate_every: PositiveInt = 1
    """Epochs between evaluations on `val` (the last epoch is always evaluated)."""
    pixel_metrics: Literal["always", "last"] = "always"
    """Whether pixel metrics, which cost the most, are computed at every evaluation or only at the last epoch. `last` needs `checkpoint: last`; it has no effect if the first metric is a pixel metric or `mad`."""
    checkpoint: Literal["best", "last"] = "best"
    """Which epoch's weights and metrics count: the best on `val` by the sweep's metric, or the last."""
    seed: Seed = 0
    """Seed of the initialisation, the order of images, dropout and noise."""

    @model_validator(mode="after")
    def _kept_epoch_is_measured(self) -> TrainConfig:
        if self.pixel_metrics == "last" and self.checkpoint == "best":
            raise ValueError(
                "pixel_metrics: 'last' leaves the epoch that checkpoint 'best' keeps unmeasured; use 'always', or"
                " checkpoint: last"
            )
        return self


class ResourcesConfig(Section):
    """What one trial takes."""

    workers: PositiveInt = 1
    """Processes that train one trial together (DDP); with 1, the trial trains in its own process."""
    cpus_per_worker: PositiveFloat | Literal["auto"] = "auto"
    """CPU cores per worker, and its number of threads. `auto`: 1, or with GPUs an even share of the CPUs per GPU."""
    gpus_per_worker: NonNegativeFloat | Literal["auto"] = "auto"
    """GPUs per worker, which may be a fraction of one; `auto`: 1 if Ray has any, else 0."""
    max_concurrent_trials: PositiveInt | Literal["auto"] = "auto"
    """Largest number of trials at once; `auto`: as many as cores, GPUs and memory hold (docs/cluster.md)."""
    max_failures: Annotated[int, Field(ge=0)] = 1
    """How often a trial whose process died is restarted from its last checkpoint."""

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole_above_one(cls, gpus: float | Literal["auto"]) -> float | Literal["auto"]:
        if gpus != "auto" and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"{gpus:g} is neither a fraction of one GPU nor a whole number of them")
        return gpus


class ConfirmConfig(Section):
    """Retraining of the best configurations once the search is over, measured on `test`."""

    top_k: Annotated[int, Field(ge=0)] = 0
    """How many of the best configurations are retrained; 0 retrains none."""
    seeds: list[Seed] = Field(default=[0, 1, 2], min_length=1)
    """Seeds of the retraining runs. A trial that already had one of these seeds is taken as that run."""

    @field_validator("seeds")
    @classmethod
    def _differ(cls, seeds: list[Seed]) -> list[Seed]:
        return distinct(seeds, "a seed")


BaselineChoice = Literal["padim", "patchcore", "no_quantizer"]


class RunConfig(Section):
    """Everything that one run of one configuration depends on."""

    model: ModelConfig = HvqConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="after")
    def _pool_fits_the_image(self) -> RunConfig:
        if self.model.score_pool_size > self.data.image_size:
            raise ValueError(
                f"model.score_pool_size: {self.model.score_pool_size} exceeds data.image_size {self.data.image_size};"
                " lower it"
            )
        return self

    @model_validator(mode="after")
    def _workers_share_a_batch(self) -> RunConfig:
        if self.train.batch_size < self.resources.workers:
            raise ValueError(
                f"train.batch_size: {self.train.batch_size} images cannot be shared by {self.resources.workers} workers;"
                " raise it or lower resources.workers"
            )
        return self
