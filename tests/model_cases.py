"""Small models and data for the contract suite and the models' own tests."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from hvqray.config.model_sections import HvqConfig, SquadConfig
from hvqray.models.batch import Batch
from hvqray.models.build import build_model
from hvqray.models.context import ModelContext
from hvqray.models.interface import AnomalyModel

NUM_CLASSES, CHANNELS, GRID, IMAGE_SIZE = 3, 12, (6, 6), 48
CONTEXT = ModelContext(("bolt", "cable", "cookie"), CHANNELS, GRID, IMAGE_SIZE)


def hvq(**fields: object) -> HvqConfig:
    small = {
        "width": 16,
        "num_heads": 2,
        "feedforward_width": 32,
        "codebook_size": 8,
        "ema_decay": 0.9,
        "ot_weight": 1.0,  # in so short a training the paper's 80 would drown the reconstruction error
        "fsq_levels": [5, 4, 3],
        "score_pool_size": 4,
    }
    return HvqConfig.model_validate(small | fields)


def squad(**fields: object) -> SquadConfig:
    small = {
        "name": "squad",
        "width": 16,
        "num_residual_blocks": 1,
        "codebook_size": 8,
        "fsq_levels": [5, 4, 3],
        "image_width": 8,
        "smoothing_sigma": 1.0,
        "score_pool_size": 4,
    }
    return SquadConfig.model_validate(small | fields)


CASES: dict[str, HvqConfig | SquadConfig] = {
    "hvq-vq": hvq(),
    "hvq-vq-normal-revive": hvq(codebook_init="normal", revive_dead_codes=True, revive_after=2),
    "hvq-vq-predicted-noise": hvq(router="predicted", feature_noise=0.1, standardize_features=False),
    "hvq-vq-one-route": hvq(router="none", ot_levels=[0, 1]),
    "hvq-vq-mahalanobis": hvq(map_distance="mahalanobis"),
    "hvq-fsq": hvq(quantizer="fsq"),
    "hvq-fsq-local": hvq(quantizer="fsq", map_distance="local_mahalanobis", map_coarse_weight=0.5),
    "hvq-mixed-levels": hvq(quantizer=["fsq", "vq", "vq"], codebook_size=[8, 12, 6]),
    "hvq-none-depth-1": hvq(quantizer="none", hierarchy_depth=1),
    "squad-fsq": squad(discriminator_start=0.0),
    "squad-fsq-residual": squad(hierarchy="residual", image_head=False),
    "squad-fsq-narrow": squad(width=8, image_width=16, discriminator=False),
    "squad-vq": squad(quantizer="vq", image_head=False),
    "squad-fsq-local": squad(
        map_distance="local_mahalanobis", score_from="coarse", router="predicted", discriminator=False
    ),
    "squad-none": squad(quantizer="none", discriminator=False),
}


def make_model(config: HvqConfig | SquadConfig, *, seed: int = 0, prepared: bool = True) -> AnomalyModel:
    """A model on the CPU, prepared on `training_batches`."""
    torch.manual_seed(seed)
    model = build_model(config, CONTEXT)
    model.random.begin_step(seed, rows=slice(None), num_rows=0)
    if prepared:
        model.prepare(training_batches, seed=seed)
    return model


def make_batch(num_images: int = 6, *, seed: int = 0) -> Batch:
    """Normal images: a pattern of its own for every class, brighter or darker from image to image, and a little noise."""
    patterns = torch.randn(NUM_CLASSES, CHANNELS, *GRID, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    class_index_B = torch.arange(num_images) % NUM_CLASSES
    brightness_B = 1 + 0.3 * torch.randn(num_images, generator=generator)
    noise = torch.randn(num_images, CHANNELS, *GRID, generator=generator)
    features = 5 + 3 * (patterns[class_index_B] * brightness_B[:, None, None, None] + 0.1 * noise)
    shade = (60 * class_index_B[:, None] + torch.tensor([20, 60, 100])).to(torch.uint8)
    images = shade[:, :, None, None].repeat(1, 1, IMAGE_SIZE, IMAGE_SIZE)
    images[:, :, ::8] = 30
    return Batch(features, class_index_B, images)


def training_batches() -> Iterator[Batch]:
    return (make_batch(seed=seed) for seed in range(4))


def train_steps(model: AnomalyModel, batches: list[Batch], *, num_steps: int) -> list[float]:
    """Plain AdamW over all objectives, as the loop does it; the first objective's loss at each step."""
    optimizers = [torch.optim.AdamW(objective.module.parameters(), lr=3e-3) for objective in model.objectives]
    losses = []
    for step in range(num_steps):
        batch, progress = batches[step % len(batches)], step / num_steps
        model.random.begin_step(step, rows=slice(None), num_rows=len(batch.class_index_B))
        for index, (objective, optimizer) in enumerate(zip(model.objectives, optimizers, strict=True)):
            if objective.active(progress):
                loss = objective.loss(batch, progress)["loss"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if index == 0:
                    losses.append(loss.item())
        model.after_step()
    return losses
