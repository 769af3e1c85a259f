"""Rows of a split as tensors for a model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hvqray.data.dataset import Split
from hvqray.models.batch import Batch


def make_batch(split: Split, indices: np.ndarray, *, device: torch.device | str, images: bool) -> Batch:
    """The images at positions `indices` of `split`, on `device`; pixels only where `images` asks for them."""
    return Batch(
        # Features travel as float16, half the bytes, and widen on the device.
        features_BChw=_copied(split.features(indices), device).float(),
        class_index_B=_copied(split.class_index[indices], device),
        images_B3HW=_copied(split.images(indices), device) if images else None,
    )


def _copied(array: np.ndarray, device: torch.device | str) -> Tensor:
    """From pageable memory a GPU may take it only when it is done with all that it was told before, and the host would wait."""
    tensor = torch.from_numpy(array)
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()  # which torch does not use again until the copy has ended
    return tensor.to(device, non_blocking=True)
