"""The one look at `test`, for a model that is already chosen."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from hvqray.data.prepare import prepare_data
from hvqray.training.anomaly_images import save_examples
from hvqray.training.checkpoint import load_model, write_record
from hvqray.training.communicator import SingleProcess
from hvqray.training.evaluation import Evaluator
from hvqray.training.optimisation import autocast


def measure_on_test(checkpoint: Path, *, device: str, cache_dir: Path | None) -> dict[str, Any]:
    """Add `test/...` metrics to a checkpoint's metrics.json and example maps of `test` beside it."""
    loaded = load_model(checkpoint, device=device)
    config = loaded.config
    data = prepare_data(config.data, cache_dir=cache_dir, device=device)
    split = data.splits["test"]

    def precision() -> AbstractContextManager[Any]:
        return autocast(config.train, torch.device(device))

    evaluator = Evaluator(
        split, data.context, SingleProcess(device), batch_size=64, precision_context=precision
    )
    measured = evaluator.evaluate(loaded.model, pixel_metrics=True)
    test = {name: value for name, value in measured.items() if name.startswith("test/")}
    if data.selected_on_test:  # the split is the same one, under its other name
        test = {
            f"test/{name.partition('/')[2]}": value
            for name, value in measured.items()
            if name.startswith(("val/", "test/"))
        }
    record = {**loaded.metrics, "metrics": {**loaded.metrics["metrics"], **test}}
    with precision():
        save_examples(loaded.model, split, data.context, checkpoint / "maps")
    write_record(checkpoint, record)
    return record
