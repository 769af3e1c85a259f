"""The gap between two trials in one slot: last step of one to first step of the next, with one worker and with two.

The gap holds what lies between two steps: the last evaluation and checkpoint of one trial, the search, and the start of the
next. Trivial trials are so small that their own part is some hundredths of a second. Target: 1 second.

Trials of a search space have work of their own before their first step (first codes, by k-means) and after their last one (calibration,
evaluation, checkpoint, example maps). So the time is told, too, from a trial's end in the study to the first step of the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from benchmarks.commands import ROOT, TRIVIAL, gaps, run_command, run_sweep, workplace, write_small_set
from benchmarks.measure import print_table, quick_flag, spread
from hvqray.config.yaml_loader import dump_yaml, load_yaml

NUM_TRIALS, NUM_REFERENCE_TRIALS = 10, 4
SPACE = ROOT / "search_spaces" / "hvq.yaml"
TYPICAL_DRAW: dict[str, Any] = {
    "codebook_size": 128,
    "codebook_growth": 1,
    "hierarchy_depth": 2,
    "ema_decay": 0.97,
    "commitment_weight": 0.25,
    "ot_weight": 1.0,
    "feature_noise": 0.1,
}
"""For the model's searched parameters, so that all trials do the same work."""
HEADER = ("trials", "workers", "Train start per trial, s", "ours, s", "ratio", "our longest, s", "ours, from a trial's end, s")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    quick = quick_flag(
        "trial gap: one Ray Train start per trial against this project's reused processes", argv
    )
    num_trials, num_reference = (3, 2) if quick else (NUM_TRIALS, NUM_REFERENCE_TRIALS)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows: list[list[object]] = []
    with workplace() as folder:
        data = write_small_set(folder / "data")
        for workers in (1,) if quick else (1, 2):
            ours, from_end = _ours(
                TRIVIAL, folder / f"ours-{workers}", data, workers=workers, num_trials=num_trials
            )
            reference = np.array(reference_gaps(folder, data, workers=workers, num_trials=num_reference))
            ratio = f"{np.median(reference) / np.median(ours):.0f}"
            rows.append(["trivial", workers, spread(reference), *_told(ours, ratio, from_end)])
        ours, from_end = _ours(
            _search_space(quick=quick),
            folder / "search-space",
            data if quick else None,
            workers=1,
            num_trials=num_trials,
        )
        rows.append([SPACE.name, 1, "-", *_told(ours, "-", from_end)])
    print_table(HEADER, rows)
    print(
        f"{SPACE.name}: of a typical draw, one epoch of two steps. The gap holds calibration, evaluation, checkpoint and example maps of one trial;"
        "\nfrom a trial's end on it holds the search, the start of the next trial, and its first codes."
    )


def _told(ours: np.ndarray, ratio: str, from_end: np.ndarray) -> list[str]:
    return [spread(ours), ratio, f"{ours.max():.2f}", spread(from_end)]


def _search_space(*, quick: bool) -> dict[str, Any]:
    """The shipped one, of which only the learning rate is still searched, from no given points, with trials of two steps."""
    space = load_yaml(SPACE)
    del space["early_terminate"], space["points_to_evaluate"]
    space["parameters"] = {"train.lr": space["parameters"]["train.lr"]}
    space["model"] |= TYPICAL_DRAW
    space["train"] |= {"epochs": 1, "images_per_epoch": 2 * space["train"]["batch_size"]}
    if quick:
        space["data"] = TRIVIAL["data"]
        space["model"] |= {"width": 8, "num_heads": 2, "codebook_size": 8}
    return space


def _ours(
    space: dict[str, Any], place: Path, data: Path | None, *, workers: int, num_trials: int
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds to the first step of a trial, from the last step of the one before and from its end in the study."""
    slot = {"workers": workers, "cpus_per_worker": 1, "max_concurrent_trials": 1}
    done = run_sweep(
        space | {"resources": slot},
        folder=place,
        data=data,
        cache=place.with_name("cache"),
        num_trials=num_trials,
    )
    steps_per_epoch = space["train"]["images_per_epoch"] // space["train"]["batch_size"]
    per_trial = workers * steps_per_epoch
    first_steps = [time for time, _ in done.steps][per_trial::per_trial]
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{done.folder / 'study.db'}")
    *ends, _ = [trial.datetime_complete.timestamp() for trial in study.trials if trial.datetime_complete]
    from_end = [start - end for start, end in zip(first_steps, ends, strict=True)]
    return np.array(gaps(done.steps, per_trial=per_trial)), np.array(from_end)


def reference_gaps(folder: Path, data: Path, *, workers: int, num_trials: int) -> list[float]:
    """Gaps of trivial trials that each start Ray Train, in seconds."""
    place = folder / f"reference-{workers}"
    place.mkdir()
    config = {name: dict(TRIVIAL[name]) for name in ("model", "data", "train")}
    config["data"]["root"] = str(data)
    (place / "run.yaml").write_text(dump_yaml(config))
    arguments = ["-m", "benchmarks.train_per_trial", str(place / "run.yaml"), str(place / "out.json")]
    arguments += [
        "--workers",
        str(workers),
        "--trials",
        str(num_trials),
        "--cache-dir",
        str(folder / "cache"),
    ]
    return gaps(run_command(arguments, folder=place).steps, per_trial=workers)


if __name__ == "__main__":
    main()
