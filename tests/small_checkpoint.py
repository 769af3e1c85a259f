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
from hvqray.models.batch import Batch
from hvqray.models.build import build_model
from hvqray.training.batches import make_batch
from hvqray.training.calibration import Calibrator
from hvqray.training.checkpoint import load_model, save_model
from hvqray.training.communicator import SingleProcess
from hvqray.training.evaluation import Evaluator
from hvqray.training.rule_choice import ChosenBy, Metrics

CLASS_NAMES = ("bolt", "cloth")
WIDTH, HEIGHT = 70, 50

SMALL_HVQ = {"name": "hvq", "width": 16, "hierarchy_depth": 1, "num_heads": 2, "codebook_size": 8}
SMALL_SQUAD = {
    "name": "squad",
    "width": 16,
    "hierarchy_depth": 1,
    "num_residual_blocks": 0,
    "fsq_levels": [5, 5],
    "image_width": 8,
}


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


SEVERAL_RULES = {
    "map_distance": "mahalanobis",
    "map_norm_weight": [0.0, 1.0],
    "score_from": "fine",
    "score_top_fraction": [0.0, 0.1],
}
"""Fields of a model with two maps and several rules for the score."""


def take_rules_that_test_would_not(checkpoint: Path, *, cache_dir: Path) -> Metrics:
    """Has a checkpoint's model take other rules for each class than are the best on `test`; gives its metrics there."""
    loaded = load_model(checkpoint)
    model = loaded.model
    data = prepare_data(loaded.config.data, cache_dir=cache_dir)
    evaluator = Evaluator(data.splits["test"], data.context, SingleProcess())
    best = evaluator.evaluate(model, pixel_metrics=True, choose_by=ChosenBy())
    for choice in (model.map_choice, model.image_score):
        assert choice.num_rules > 1
        choice.choose([(rule + 1) % choice.num_rules for rule in choice.chosen_R.tolist()])
    save_model(checkpoint, model, config=loaded.config, context=loaded.context, record=loaded.metrics)
    metrics = evaluator.evaluate(model, pixel_metrics=True)
    for name in CLASS_NAMES:
        for metric in ("pixel_aupro", "image_f1max.threshold"):
            assert metrics[f"test/{name}/{metric}"] != best[f"test/{name}/{metric}"]
    return metrics
