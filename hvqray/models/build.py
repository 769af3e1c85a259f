"""From a configuration to a model."""

from __future__ import annotations

import torch

from hvqray.config.sections import HvqConfig, SquadConfig
from hvqray.errors import InputError
from hvqray.models.interface import AnomalyModel, ModelContext


def build_model(
    config: HvqConfig | SquadConfig, context: ModelContext, device: torch.device | str = "cpu"
) -> AnomalyModel:
    """A fresh model on `device`, its parameters drawn from torch's global generator (which the caller seeds).

    Raises InputError where the configuration does not fit the data's image size.
    """
    if config.score_pool_size > context.image_size:
        raise InputError(
            f"{config.score_pool_size} exceeds the image size {context.image_size}; choose at most that",
            field="model.score_pool_size",
        )
    # Imported on demand, so that one model's code is not loaded for the other.
    if isinstance(config, SquadConfig):
        from hvqray.models.squad import SquadModel

        return SquadModel(config, context, device)
    from hvqray.models.hvq import HvqModel

    return HvqModel(config, context, device)
