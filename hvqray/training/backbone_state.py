"""The batch statistics of a checkpoint's backbone, for new images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hvqray.data.prepare import prepare_data
from hvqray.data.progress import Progress
from hvqray.training.checkpoint import LoadedModel


def batchnorm_of(
    loaded: LoadedModel, *, cache_dir: Path | None, device: str = "cpu", progress: Progress | None = None
) -> dict[str, np.ndarray] | None:
    """What `load_backbone` takes as `batchnorm`; None without `data.adapt_batchnorm`.

    A checkpoint of a version that did not store the statistics needs the data that it was trained on: they are taken
    from the cache, or estimated anew.

    Raises:
        InputError: the checkpoint has none, and the data are not to be had.
    """
    config = loaded.config.data
    if not config.adapt_batchnorm:
        return None
    if loaded.batchnorm is not None:
        return loaded.batchnorm
    return prepare_data(config, cache_dir=cache_dir, device=device, progress=progress).batchnorm
