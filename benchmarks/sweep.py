"""A whole 16-trial sweep from the command to the report, against the published loop with as many steps under Ray Tune.

Both train HVQ-Trans at its default size on the synthetic set, each trial for the same number of epochs, no trial stopped
early, validated after every epoch. The published side would take hours, so ONE of its trials is run whole, with the
parameters of the sweep's best, and 16 are extrapolated: 16 / slots x (that trial + one start of Ray Train, measured on
trivial trials). This favours it: its trial has the machine to itself, and decoding, pixel metrics, test and report are left out.
The published side has the published dropout; the sweep has none, as in the shipped search spaces.

Equal steps are not equal quality. So the time is told, too, after which the sweep was as good on `val` as the published trial ever was,
from the command on, its search and the cache's build included; the published trial is given the sweep's best parameters from the start.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import TRIVIAL, run_command, run_sweep, workplace, write_small_set
from benchmarks.measure import print_table, quick_flag
from benchmarks.trial_gap import reference_gaps
from hvqray.config.yaml_loader import dump_yaml, load_yaml
from hvqray.results.journal import read_records
from hvqray.results.stored_trials import journal_path

NUM_TRIALS = 16
PUBLISHED_DROPOUT = 0.1
SPACE: dict[str, Any] = {
    "method": "bayes",
    "metric": {"name": "val/image_auroc", "goal": "maximize"},
    "parameters": {
        "train.lr": {"distribution": "log_uniform_values", "min": 3e-4, "max": 3e-3},
        "model.ot_weight": {"values": [0.0, 5.0, 80.0]},
        "model.commitment_weight": {"distribution": "log_uniform_values", "min": 0.05, "max": 1.0},
    },
    "model": {"name": "hvq", "standardize_features": False, "dropout": 0.0},
    "train": {"epochs": 8, "batch_size": 16},
}


def main(argv: Sequence[str] | None = None) -> None:
    quick = quick_flag(
        "sweep: 16 trials from command to report, against the published loop under Ray Tune", argv
    )
    num_trials = 2 if quick else NUM_TRIALS
    slots = len(os.sched_getaffinity(0))
    with workplace() as folder:
        small = write_small_set(folder / "data")
        data = small if quick else None
        space = TRIVIAL if quick else SPACE
        ours = run_sweep(
            space, folder=folder / "ours", data=data, cache=folder / "cache", num_trials=num_trials
        )
        aurocs = [trial["val/image_auroc"] for trial in ours.trials() if trial["state"] == "COMPLETE"]
        epoch_aurocs = _epoch_aurocs(ours.folder)
        trial_s, published_auroc = _published_trial(folder, ours.folder / "best" / "config.yaml")
        start_s = float(np.median(reference_gaps(folder, small, workers=1, num_trials=2 if quick else 4)))
    published_s = num_trials / slots * (trial_s + start_s)
    header = ("sweep", "wall s", "best val image AUROC", "what was measured")
    rows: list[list[object]] = [
        [
            "this project",
            ours.seconds,
            max(aurocs),
            f"all of it: {len(aurocs)} trials, {slots} slots, the cache built first",
        ],
        [
            "published loop",
            published_s,
            "undefined (maps not finite)" if published_auroc is None else published_auroc,
            f"EXTRAPOLATED from one trial of {trial_s:.0f} s and Train starts of {start_s:.0f} s, {slots} slots",
        ],
    ]
    print_table(header, rows)
    print(f"published / ours, equal steps: {published_s / ours.seconds:.1f}")
    if published_auroc is None:
        print("to equal quality: the published trial has none")
        return
    needed = next((n for n, auroc in enumerate(epoch_aurocs, 1) if auroc >= published_auroc), None)
    if needed is None:
        print(f"to equal quality: the sweep never reached {published_auroc:.3f}")
        return
    # Epochs of all slots have as many steps, so the one that reached it ended about with this step.
    steps = len(ours.steps) * needed // len(epoch_aurocs)
    reached_s = ours.steps[steps - 1][0] - ours.started
    print(
        f"to equal quality ({published_auroc:.3f} on val): the sweep {reached_s:.0f} s, after {needed} of its {len(epoch_aurocs)} epochs; "
        f"one published trial {start_s + trial_s:.0f} s: {(start_s + trial_s) / reached_s:.1f} times; target 10"
    )


def _epoch_aurocs(folder: Path) -> list[float]:
    """Image AUROC on `val` of all trials' epochs, in the order in which they ended."""
    records = [record for record in read_records(journal_path(folder)) if record["event"] == "epoch"]
    return [record["metrics"]["val/image_auroc"] for record in records]


def _published_trial(folder: Path, config: Path) -> tuple[float, float | None]:
    """Seconds of one trial with the sweep's best parameters, and its best image AUROC on val."""
    place = folder / "published"
    place.mkdir()
    published = load_yaml(config)
    published["model"]["dropout"] = PUBLISHED_DROPOUT
    file = place / "config.yaml"
    file.write_text(dump_yaml(published))
    arguments = ["-m", "benchmarks.train_per_trial", str(file), str(place / "out.json")]
    run_command([*arguments, "--cache-dir", str(folder / "cache")], folder=place)
    (trial,) = json.loads((place / "out.json").read_text())
    return trial["ended"] - trial["started"], trial["image_auroc"]


if __name__ == "__main__":
    main()
