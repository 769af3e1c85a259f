"""Evaluation (maps and scores of images) of both models against the plain loop, and how far it is from the limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from benchmarks.measure import Limits, Work, count_flops, devices, interleave, print_table, quick_flag
from benchmarks.problems import Problem, problems, random_split
from benchmarks.published_loop import plain
from hvqray.data.dataset import Split
from hvqray.models.build import build_model
from hvqray.models.interface import AnomalyModel
from hvqray.training.batches import make_batch
from hvqray.training.calibration import Calibrator
from hvqray.training.communicator import SingleProcess
from hvqray.training.evaluation import evaluating, predictions
from hvqray.training.optimisation import autocast

ROUNDS = 5
NUM_IMAGES = 64
"""Of one class, as the product evaluates them; the plain loop takes them in batches as it trains."""
HEADER = (
    "evaluation", "plain s/image", "fp32 s/image", "bf16 s/image", "plain / fp32", "plain / bf16", "GFLOP/image", "of the fp32 rate", "of the bf16 rate",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    quick = quick_flag("evaluation: published loop (backbone, image by image) against this project's", argv)
    for device in devices():
        limits = Limits(device, quick=quick)
        rows = []
        for problem in problems(quick=quick):
            row, line = _measure(
                problem, device, limits, num_images=8 if quick else NUM_IMAGES, rounds=2 if quick else ROUNDS
            )
            rows.append(row)
        print(f"{device}, {line}\n")
        print_table(HEADER, rows)


def _measure(
    problem: Problem, device: str, limits: Limits, *, num_images: int, rounds: int
) -> tuple[list[object], str]:
    split = random_split(problem, num_images=num_images)
    split.class_index[:] = 0
    torch.manual_seed(0)
    model = build_model(problem.model, problem.context, device=device)
    reference = make_batch(split, np.arange(num_images), device=device, images=model.needs_images)
    model.prepare(lambda: iter([reference]), seed=0)
    Calibrator(split, SingleProcess(device), images_per_class=None).calibrate(model)
    ours = {precision: _pass(model, split, problem, precision, device) for precision in ("fp32", "bf16")}
    # Outside of inference mode, where the counter and spectral norm do not go together.
    flops = count_flops(lambda: model.predict(reference))
    works: dict[str, Work] = {"plain": _plain_pass(problem, split, device), **ours}
    measured = interleave(works | limits.works, rounds=rounds, device=device)
    row: list[object] = [problem.name]
    row += [measured.seconds(name) / num_images for name in works]
    row += [measured.ratio("plain", precision) for precision in ours]
    row += [flops / num_images / 1e9]
    row += [measured.share_of_rate(name, flops, f"limit {name}", limits.flops) for name in ours]
    return row, limits.describe(measured)


def _pass(
    model: AnomalyModel, split: Split, problem: Problem, precision: str, device: str
) -> Callable[[], None]:
    config = problem.train_config(precision)

    def run() -> None:
        with evaluating(model):
            for _, prediction in predictions(
                model,
                split,
                np.arange(len(split)),
                batch_size=64,
                device=device,
                precision_context=lambda: autocast(config, torch.device(device)),
            ):
                prediction.maps_BHW.cpu().numpy()
                prediction.scores_B.cpu().numpy()

    return run


def _plain_pass(problem: Problem, split: Split, device: str) -> Callable[[], None]:
    published = plain(problem, device)

    def run() -> None:
        for start in range(0, len(split), problem.batch_size):
            rows = slice(start, start + problem.batch_size)
            images = torch.from_numpy(split.all_images[rows]).to(device)
            published.predict(images, torch.from_numpy(split.class_index[rows]).to(device))

    return run


if __name__ == "__main__":
    main()
