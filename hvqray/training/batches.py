"""Rows of a split as tensors for a model."""

from __future__ import annotations

import numpy as np
import torch

from hvqray.data.dataset import Split
from hvqray.models.interface import Batch


def make_batch(split: Split, indices: np.ndarray, *, device: torch.device | str, images: bool) -> Batch:
    """The images at positions `indices` of `split`, on `device`; pixels only where `images` asks for them."""
    return Batch(
        # Features travel as float16, half the bytes, and widen on the device.
        features_BChw=torch.from_numpy(split.features(indices)).to(device, non_blocking=True).float(),
        class_index_B=torch.from_numpy(split.class_index[indices]).to(device, non_blocking=True),
        images_B3HW=torch.from_numpy(split.images(indices)).to(device, non_blocking=True) if images else None,
    )
