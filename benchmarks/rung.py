"""A rung of the shipped search spaces: what an evaluation costs beside the epochs that lie between two.

Before each the maps are measured on normal training images (`calibration_images: null` means all of them), then `val` is predicted, all
metrics are taken, those of pixels by every map that is offered, and each class is given the map and the score that are best for it; the best
epoch so far is saved. The models are those of the search spaces but for what they search; features are random, classes four.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.commands import ROOT, workplace
from benchmarks.measure import Work, devices, interleave, print_table, quick_flag
from benchmarks.problems import Problem, random_split
from hvqray.config.sweep_file import load_sweep
from hvqray.data.dataset import Split
from hvqray.models.batch import Batch
from hvqray.models.build import build_model
from hvqray.models.interface import AnomalyModel
from hvqray.process_memory import keep_freed_memory
from hvqray.training.batches import make_batch
from hvqray.training.calibration import Calibrator
from hvqray.training.checkpoint import MODEL_FILE, save_model
from hvqray.training.communicator import SingleProcess
from hvqray.training.evaluation import Evaluator
from hvqray.training.optimisation import ObjectiveTrainer, autocast
from hvqray.training.rule_choice import ChosenBy

ROUNDS = 3
NUM_CLASSES = 4
NUM_IMAGES = 768
"""Of training and of `val`, each; costs are told an image. To turn sums into Gaussians costs the same for any number."""
SPACES = ("hvq", "squad")
HEADER = (
    "search space", "training ms/image", "calibration ms/image", "maps and image metrics ms/image", "pixel metrics ms/image", "a rung in training images", "checkpoint s", "checkpoint MB",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    keep_freed_memory()  # as every run of the product does
    quick = quick_flag("a rung of the shipped search spaces against the training between two", argv)
    for device in devices():
        with workplace() as folder:
            rows = [_measure(name, device, folder / name, quick=quick) for name in SPACES]
        print(f"{device}, threads: {torch.get_num_threads()}\n")
        print_table(HEADER, rows)
    print(
        "\nA rung in training images: how many could be trained on in the time of calibrating on as many and measuring as many with all"
        "\nmetrics. Pixel metrics are those of all maps together. The checkpoint comes on top, where the epoch is the best so far."
    )


def _measure(name: str, device: str, folder: Path, *, quick: bool) -> list[object]:
    run = load_sweep(ROOT / "search_spaces" / f"{name}.yaml").base_run_config()
    size = 64 if quick else run.data.image_size
    problem = Problem(name, run.model, run.data.backbone.name, 192, image_size=size, num_classes=NUM_CLASSES)
    split = random_split(problem, num_images=8 if quick else NUM_IMAGES)
    torch.manual_seed(0)
    model = build_model(run.model, problem.context, device=device)
    model.prepare(lambda: iter(list(_batches(model, split, device))[:2]), seed=0)
    trainers = [ObjectiveTrainer(each, run.train, SingleProcess(device)) for each in model.objectives]
    evaluator = Evaluator(
        split,
        problem.context,
        SingleProcess(device),
        precision_context=lambda: autocast(run.train, torch.device(device)),
    )

    def train() -> None:
        for number, batch in enumerate(_batches(model, split, device)):
            model.random.begin_step(number, rows=slice(None), num_rows=len(batch.class_index_B))
            for trainer in trainers:
                trainer.step(batch, progress=0.9, share=1.0)
            model.after_step()

    calibrator = Calibrator(
        split,
        SingleProcess(device),
        images_per_class=run.train.calibration_images,
        precision_context=lambda: autocast(run.train, torch.device(device)),
    )

    def calibrate() -> None:
        calibrator.calibrate(model)

    calibrate()
    works: dict[str, Work] = {
        "train": train,
        "calibrate": calibrate,
        "images": _evaluation(evaluator, model, pixel_metrics=False),
        "pixels": _evaluation(evaluator, model, pixel_metrics=True),
    }

    def save() -> None:
        assert isinstance(model, nn.Module)
        save_model(folder, model, config=run, context=problem.context, record={})

    measured = interleave(works | {"save": save}, rounds=2 if quick else ROUNDS, device=device)
    train_s, calibrate_s, images_s, pixels_s = (measured.seconds(each) / len(split) for each in works)
    costs_ms = [1e3 * each for each in (train_s, calibrate_s, images_s, pixels_s - images_s)]
    rung = (calibrate_s + pixels_s) / train_s
    return [name, *costs_ms, rung, measured.seconds("save"), (folder / MODEL_FILE).stat().st_size / 1e6]


def _evaluation(evaluator: Evaluator, model: AnomalyModel, *, pixel_metrics: bool) -> Callable[[], None]:
    """As the loop evaluates where `val/mad` decides."""

    def run() -> None:
        evaluator.evaluate(model, pixel_metrics=pixel_metrics, choose_by=ChosenBy())

    return run


def _batches(model: AnomalyModel, split: Split, device: str) -> Iterator[Batch]:
    for start in range(0, len(split), 16):
        rows = np.arange(start, min(start + 16, len(split)))
        yield make_batch(split, rows, device=device, images=model.needs_images)


if __name__ == "__main__":
    main()
