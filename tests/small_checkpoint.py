"""A small dataset of images on disk and an untrained model's checkpoint for it: what the commands are tested with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hvqray.config.sections import RunConfig
from hvqray.data.prepare import prepare_data
from hvqray.models.build import build_model
from hvqray.models.interface import Batch
from hvqray.training.batches import make_batch
from hvqray.training.calibration import Calibrator
from hvqray.training.checkpoint import save_model
from hvqray.training.communicator import SingleProcess
from hvqray.training.evaluation import Evaluator

CLASS_NAMES = ("bolt", "cloth")
WIDTH, HEIGHT = 70, 50


def write_dataset(root: Path) -> None:
    """Two classes of noise images (70 x 50) in the MVTec AD layout; defects are bright bars, with masks."""
    rng = np.random.default_rng(0)
    for shade, name in zip((90, 150), CLASS_NAMES, strict=True):
        for part, count in (("train/good", 6), ("test/good", 6), ("test/scratch", 6)):
            folder = root / name / part
            folder.mkdir(parents=True)
            masks = root / name / "ground_truth" / "scratch"
            masks.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = rng.normal(shade, 25, (HEIGHT, WIDTH, 3))
                if part == "test/scratch":
                    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
                    mask[10 + 3 * i : 22 + 3 * i, 10:50] = 255
                    pixels[mask > 0] += 60
                    Image.fromarray(mask).save(masks / f"{i:03d}_mask.png")
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:03d}.png")


def write_checkpoint(
    folder: Path, root: Path, cache_dir: Path, *, model: dict[str, Any], adapt_batchnorm: bool = False
) -> Path:
    """Checkpoint of an untrained model with its metrics on `val`, as a training run writes it."""
    config = RunConfig.model_validate(
        {
            "model": model,
            "data": {
                "root": str(root),
                "image_size": 64,
                "backbone": {"weights": "random"},
                "adapt_batchnorm": adapt_batchnorm,
            },
            "train": {"precision": "fp32"},
        }
    )
    data = prepare_data(config.data, cache_dir=cache_dir)
    torch.manual_seed(0)
    built = build_model(config.model, data.context)

    def batches() -> Iterator[Batch]:
        train = data.splits["train"]
        yield make_batch(train, np.arange(len(train)), device="cpu", images=built.needs_images)

    built.prepare(batches, seed=0)
    Calibrator(data.splits["train"], SingleProcess(), images_per_class=None).calibrate(built)
    metrics = Evaluator(data.splits["val"], data.context, SingleProcess()).evaluate(built, pixel_metrics=True)
    assert isinstance(built, torch.nn.Module)
    record = {"trial_id": None, "epoch": 1, "selected_on_test": data.selected_on_test, "metrics": metrics}
    save_model(folder, built, config=config, context=data.context, record=record, batchnorm=data.batchnorm)
    return folder
