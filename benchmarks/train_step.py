"""A training step of both models against the plain loop, and how far it is from the matrix-product rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks.measure import Limits, Work, count_flops, devices, interleave, print_table, quick_flag
from benchmarks.problems import Problem, problems, random_split
from benchmarks.product_step import ProductStep
from benchmarks.published_loop import plain

ROUNDS = 7
HEADER = (
    "step", "plain s", "fp32 s", "bf16 s", "plain / fp32", "plain / bf16", "GFLOP", "of the fp32 rate", "of the bf16 rate",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    quick = quick_flag("training step: published loop (backbone in every step) against this project's", argv)
    for device in devices():
        limits = Limits(device, quick=quick)
        rows = []
        for problem in _problems(quick=quick):
            row, line = _measure(problem, device, limits, rounds=2 if quick else ROUNDS)
            rows.append(row)
        print(f"{device}, {line}\n")
        print_table(HEADER, rows)


def _problems(*, quick: bool) -> list[Problem]:
    """All, and the first one, HVQ-Trans at its default size, without dropout, as in the shipped search spaces."""
    first, *others = problems(quick=quick)
    without = first.model.model_copy(update={"dropout": 0.0})
    return [first, replace(first, name=f"{first.name}, no dropout", model=without), *others]


def _measure(problem: Problem, device: str, limits: Limits, *, rounds: int) -> tuple[list[object], str]:
    split = random_split(problem)
    published = plain(problem, device)
    images = torch.from_numpy(split.all_images[: problem.batch_size]).to(device)
    class_index = torch.from_numpy(split.class_index[: problem.batch_size]).to(device)
    steps = {
        precision: ProductStep(problem, split, precision=precision, device=device)
        for precision in ("fp32", "bf16")
    }
    flops = count_flops(steps["fp32"])
    works: dict[str, Work] = {"plain": lambda: published.step(images, class_index)}
    works |= steps
    measured = interleave(works | limits.works, rounds=rounds, device=device)
    row: list[object] = [problem.name]
    row += [measured.seconds(name) for name in works]
    row += [measured.ratio("plain", precision) for precision in steps]
    row += [flops / 1e9]
    row += [
        measured.share_of_rate(precision, flops, f"limit {precision}", limits.flops) for precision in steps
    ]
    return row, limits.describe(measured)


if __name__ == "__main__":
    main()
