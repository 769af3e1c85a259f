"""What is measured on: the models at their sizes, and random data of the right shapes in place of a dataset.

Legend: n images, C feature channels, h x w feature grid, S image size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hvqray.config.model_sections import HvqConfig, ModelConfig, SquadConfig
from hvqray.config.sections import TrainConfig
from hvqray.data.dataset import Sample, Split
from hvqray.models.context import ModelContext

NUM_CLASSES = 15
NUM_IMAGES = 64


@dataclass(frozen=True)
class Problem:
    """A model at a size, on features of a backbone."""

    name: str
    model: ModelConfig
    backbone: str
    feature_channels: int
    image_size: int = 224
    batch_size: int = 16
    num_classes: int = NUM_CLASSES
    weights: str = "random"
    """Of the backbone: random ones cost as much as trained ones, and need no hub."""

    @property
    def context(self) -> ModelContext:
        side = self.image_size // 16
        names = tuple(f"class{number:02d}" for number in range(self.num_classes))
        return ModelContext(names, self.feature_channels, (side, side), self.image_size)

    def train_config(self, precision: str) -> TrainConfig:
        return TrainConfig.model_validate({"batch_size": self.batch_size, "precision": precision})


# Where codes start from costs nothing in a step, and k-means takes minutes at paper size.
HVQ_PAPER = HvqConfig(
    width=256,
    hierarchy_depth=4,
    codebook_size=512,
    feedforward_width=1024,
    standardize_features=False,
    codebook_init="normal",
)
SQUAD_LARGE = SquadConfig(name="squad", width=256, num_residual_blocks=4, image_scale=2, image_width=64)


def problems(*, quick: bool) -> list[Problem]:
    """HVQ-Trans and SQUAD, each at its default size and at the paper's; SQUAD's paper tells no sizes, so there a large one."""
    if quick:
        small = {
            "width": 16,
            "hierarchy_depth": 1,
            "codebook_size": 8,
            "codebook_init": "normal",
            "score_pool_size": 4,
        }
        hvq = HvqConfig.model_validate(small | {"num_heads": 2, "feedforward_width": 32})
        squad = SquadConfig.model_validate(small | {"name": "squad", "image_width": 8})
        backbone, channels = "tf_efficientnet_lite0", 192
        return [
            Problem("HVQ-Trans, tiny", hvq, backbone, channels, image_size=64, batch_size=4),
            Problem("SQUAD, tiny", squad, backbone, channels, image_size=64, batch_size=4),
        ]
    return [
        Problem("HVQ-Trans, default", HvqConfig(codebook_init="normal"), "tf_efficientnet_lite0", 192),
        Problem("HVQ-Trans, paper", HVQ_PAPER, "tf_efficientnet_b4", 272),
        Problem("SQUAD, default", SquadConfig(name="squad"), "tf_efficientnet_lite0", 192),
        Problem("SQUAD, large", SQUAD_LARGE, "tf_efficientnet_b4", 272),
    ]


def random_split(problem: Problem, *, num_images: int = NUM_IMAGES) -> Split:
    """Images, and features that do not belong to them, drawn with a fixed seed; every third image has a defect.

    Features have their class's own mean, so that a router tells classes apart as it does with photographs.
    """
    rng = np.random.default_rng(0)
    context, side = problem.context, problem.image_size
    class_index_n = rng.permutation(np.arange(num_images) % problem.num_classes)
    is_anomalous_n = np.arange(num_images) % 3 == 0
    features_nChw = rng.normal(size=(num_images, context.feature_channels, *context.grid_size))
    features_nChw += rng.normal(size=(problem.num_classes, context.feature_channels, 1, 1))[class_index_n]
    masks_nSS = np.zeros((num_images, side, side), np.uint8)
    masks_nSS[is_anomalous_n, : side // 4, : side // 4] = 1
    return Split(
        name="val",
        samples=tuple(
            Sample(Path(f"{i}.png"), context.class_names[c], "test", "hole")
            for i, c in enumerate(class_index_n)
        ),
        class_index=class_index_n,
        is_anomalous=is_anomalous_n,
        rows=np.arange(num_images),
        all_features=features_nChw.astype(np.float16),
        all_images=rng.integers(0, 256, (num_images, 3, side, side), dtype=np.uint8),
        all_masks=masks_nSS,
        has_mask=np.ones(num_images, bool),
    )
