"""From a configuration to a model."""

from __future__ import annotations

import torch

from hvqray.config.model_sections import HvqConfig, SquadConfig
from hvqray.errors import InputError
from hvqray.models.context import ModelContext
from hvqray.models.interface import AnomalyModel

MAX_MAP_BYTES = 8 * 2**30
"""What the matrices of `map_distance: local_mahalanobis` may take while they are measured."""


def build_model(
    config: HvqConfig | SquadConfig, context: ModelContext, device: torch.device | str = "cpu"
) -> AnomalyModel:
    """A fresh model on `device`, its parameters drawn from torch's global generator (which the caller seeds).

    Raises InputError where the configuration does not fit the data's image size, or its map would not fit the memory.
    """
    if config.score_pool_size > context.image_size:
        raise InputError(
            f"{config.score_pool_size} exceeds the image size {context.image_size}; choose at most that",
            field="model.score_pool_size",
        )
    check_map_fits(config, context)
    # Imported on demand, so that one model's code is not loaded for the other.
    if isinstance(config, SquadConfig):
        from hvqray.models.squad import SquadModel

        return SquadModel(config, context, device)
    from hvqray.models.hvq import HvqModel

    return HvqModel(config, context, device)


def check_map_fits(config: HvqConfig | SquadConfig, context: ModelContext) -> None:
    """Raise InputError where the matrices of a Gaussian for every location exceed `MAX_MAP_BYTES`; allocates nothing."""
    if config.map_distance != "local_mahalanobis":
        return
    rows, columns = context.grid_size
    channels = context.feature_channels
    matrix_numbers = rows * columns * channels**2
    num_routes = 1 if config.router == "none" else len(context.class_names)
    num_distances = 2 if config.measures_coarse() else 1
    # Of one class at a time sums of 4 bytes, and four matrices of 4 while they are factored.
    num_bytes = map_bytes(context, num_routes=num_routes, num_distances=num_distances)
    num_bytes += matrix_numbers * (num_distances * 4 + 4 * 4)
    if num_bytes > MAX_MAP_BYTES:
        of_classes = f" for each of {num_routes} classes" if num_routes > 1 else ""
        raise InputError(
            f"local_mahalanobis takes a {channels} x {channels} matrix at {rows} x {columns} locations{of_classes},"
            f" {num_bytes / 2**30:.1f} GiB in all, over {MAX_MAP_BYTES / 2**30:.0f}; choose mahalanobis, a smaller"
            " data.image_size, or a data.backbone of fewer channels",
            field="model.map_distance",
        )


def map_bytes(context: ModelContext, *, num_routes: int, num_distances: int) -> int:
    """What a model with a Gaussian for every location always holds of them: factors of C x C, 2 bytes a number."""
    rows, columns = context.grid_size
    return 2 * rows * columns * context.feature_channels**2 * num_routes * num_distances
