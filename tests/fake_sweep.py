"""A made-up sweep's folder, as a real one would leave it, for tests of everything that reads one."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from PIL import Image
from safetensors.numpy import save_file

from hvqray.results.events import SweepListener, TrialEnd, TrialStart
from hvqray.results.history import DataRecord
from hvqray.results.store import SweepStore
from hvqray.training.epoch_report import EpochReport

METRICS = ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_aupro")
CLASSES = ("ballscrew", "cookie", "magnetic_tile", "road")
OBJECTIVE = "val/image_auroc"
NUM_EPOCHS = 3


def metrics_of(
    quality: float, *, classes: tuple[str, ...] = CLASSES, seed: int = 0, split: str = "val"
) -> dict[str, Any]:
    """Flat metrics around `quality`; the mean is the mean of the classes."""
    rng = random.Random(seed)
    metrics: dict[str, Any] = {}
    for metric in METRICS:
        values = [min(1.0, quality + rng.uniform(-0.1, 0.1)) for _ in classes]
        metrics[f"{split}/{metric}"] = sum(values) / len(values)
        metrics.update(
            {f"{split}/{name}/{metric}": value for name, value in zip(classes, values, strict=True)}
        )
    if split == "val":
        metrics["train/loss"] = 2.0 - quality
        for level, use in (("top", quality), ("q0", quality / 2)):
            metrics[f"codebook/{level}/use"] = use
            metrics[f"codebook/{level}/perplexity"] = 100 * use
    return metrics


def params_of(number: int) -> dict[str, Any]:
    """A float, an int, a categorical and a list-valued parameter that applies to some trials only."""
    params: dict[str, Any] = {
        "train.lr": 10 ** -(2 + number % 5 / 2),
        "model.codebook_size": 32 * (1 + number % 4),
        "model.quantizer": ("vq", "fsq")[number % 2],
    }
    if number % 2:
        params["model.fsq_levels"] = [8, 5, 5, 5] if number % 4 == 1 else [7, 5]
    return params


def start_of(number: int) -> TrialStart:
    config = {
        "model": {"name": "hvq"},
        "data": {"root": "/secret/place/parts", "image_size": 224, "backbone": {"weights": "/secret/w.pth"}},
    }
    return TrialStart(f"t{number:04d}", number, params_of(number), config, f"hash{number}", 0)


def state_of(number: int) -> Any:
    """Every fifth trial fails, every fourth is pruned."""
    return "FAIL" if number % 5 == 4 else "PRUNED" if number % 4 == 3 else "COMPLETE"


def play(
    listener: SweepListener, number: int, *, classes: tuple[str, ...] = CLASSES, folder: Path | None = None
) -> TrialEnd:
    """Let one trial happen before a listener."""
    start, state = start_of(number), state_of(number)
    listener.on_trial_start(start)
    epochs = {"FAIL": 1, "PRUNED": 2, "COMPLETE": NUM_EPOCHS}[state]
    metrics: dict[str, Any] = {}
    for epoch in range(1, epochs + 1):
        quality = 0.6 + 0.03 * (number % 7) + 0.04 * epoch
        metrics = metrics_of(quality, classes=classes, seed=number)
        listener.on_epoch(
            start.trial_id, EpochReport(epoch, NUM_EPOCHS, metrics, 10.0 * epoch, selected=metrics)
        )
    end = TrialEnd(
        start.trial_id,
        state,
        {} if state == "FAIL" else metrics,
        epochs,
        10.0 * epochs,
        error="RuntimeError: <b>out of memory</b>" if state == "FAIL" else None,
        folder=str(folder) if folder else None,
        best_epoch=max(1, epochs - 1),
    )
    listener.on_trial_end(end)
    return end


def write_maps(
    folder: Path, *, classes: tuple[str, ...] = CLASSES, per_class: int = 2, size: int = 64
) -> None:
    """Example pictures under `folder`/maps."""
    (folder / "maps").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    for class_name in classes:
        for example in range(per_class):
            centre = rng.integers(size // 4, 3 * size // 4, 2)
            distance = np.hypot(y - centre[0], x - centre[1])
            image = np.clip(120 + 20 * rng.standard_normal((size, size)) - 70 * (distance < 6), 0, 255)
            heat = np.exp(-((distance / 10) ** 2))
            stem = folder / "maps" / f"{class_name}_{example:03d}"
            colours = np.stack([255 * heat, 80 + 60 * heat, 255 * (1 - heat)], axis=-1)
            for kind, array in (("image", image), ("mask", 255 * (distance < 6)), ("map", colours)):
                Image.fromarray(array.astype(np.uint8)).save(f"{stem}_{kind}.png")


def write_fake_sweep(
    folder: Path,
    *,
    num_trials: int = 6,
    classes: tuple[str, ...] = CLASSES,
    validation: str = "test",
    with_best: bool = True,
    images: DataRecord | None = None,
) -> Path:
    """A whole sweep: sweep.yaml, store, study.db and best/."""
    folder.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {
        "root": "/secret/place/parts",
        "image_size": 224,
        "validation": {"from": validation},
    }
    sweep = {
        "name": folder.name,
        "description": "A made-up search",
        "project": "anomalies",
        "metric": {"name": OBJECTIVE, "goal": "maximize"},
        "data": data | ({"classes": list(classes)} if classes != CLASSES else {}),
        "train": {"seed": 7},
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    store = SweepStore(folder, resume=False, selected_on_test=False, data=images)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name="made-up", storage=f"sqlite:///{folder / 'study.db'}", direction="maximize"
    )
    ends = []
    for number in range(num_trials):
        end = play(store, number, classes=classes)
        ends.append(end)
        params = {
            name: str(value) if isinstance(value, list) else value
            for name, value in params_of(number).items()
        }
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[end.state],
                value=end.metrics.get(OBJECTIVE) if end.state == "COMPLETE" else None,
                params=params,
                distributions={name: _distribution(name) for name in params},
            )
        )
    store.close()
    complete = [end for end in ends if end.state == "COMPLETE"]
    if with_best and complete:
        best = max(complete, key=lambda end: end.metrics[OBJECTIVE])
        write_maps(folder / "best", classes=classes)
        test = metrics_of(0.8, classes=classes, seed=99, split="test")
        content = {
            "trial_id": best.trial_id,
            "epoch": NUM_EPOCHS,
            "selected_on_test": validation == "none",
            "metrics": {**best.metrics, **test},
            "environment": {
                "code_version": "0.1.0+gabc",
                "hardware": "2 cores of a processor",
                "torch": "2.11",
            },
        }
        (folder / "best" / "metrics.json").write_text(json.dumps(content))
        config = {"model": {"name": "hvq"}, "data": data}
        (folder / "best" / "config.yaml").write_text(yaml.safe_dump(config))
        header = {"hvqray": json.dumps({"config": config, "context": {}, "record": content})}
        save_file({"weight": np.zeros(3)}, folder / "best" / "model.safetensors", metadata=header)
    return folder


def _distribution(name: str) -> optuna.distributions.BaseDistribution:
    if name == "train.lr":
        return optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True)
    if name == "model.codebook_size":
        return optuna.distributions.IntDistribution(16, 512)
    choices = {"model.quantizer": ("vq", "fsq"), "model.fsq_levels": ("[8, 5, 5, 5]", "[7, 5]")}
    return optuna.distributions.CategoricalDistribution(choices[name])
