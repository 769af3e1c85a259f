"""The best model: chosen on `val`, and laid out in `best/` for users."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from hvqray.results.confirmation import ConfirmedConfiguration, confirm_record
from hvqray.results.events import Goal
from hvqray.results.history import TrialRecord
from hvqray.results.ranking import is_better, ranked
from hvqray.training.checkpoint import METRICS_FILE, write_record
from hvqray.tuning.measured import measured_folder

FOLDER = "best"


def best_trials(trials: Sequence[TrialRecord], goals: Mapping[str, Goal], number: int) -> list[TrialRecord]:
    """The best COMPLETE trials by the first metric, the best one first; at most `number`."""
    return ranked((trial for trial in trials if trial.state == "COMPLETE"), goals)[:number]


def best_confirmed(
    confirmed: Sequence[ConfirmedConfiguration], goals: Mapping[str, Goal]
) -> tuple[str, str] | None:
    """Trial and run of the best model: the configuration of the best mean of the first metric over the seeds, by its best seed.

    None where no configuration was trained on all seeds.
    """
    name, goal = next(iter(goals.items()))
    best: tuple[float, str, str] | None = None
    for each in confirmed:
        spread = each.metrics.get(name)
        if each.failed or spread is None or spread.mean is None:
            continue
        if best is None or is_better(spread.mean, best[0], goal):
            choose = max if goal == "maximize" else min
            values = [value for value in spread.values if value is not None]
            run_id = each.run_ids[spread.values.index(choose(values))]
            best = (spread.mean, each.trial_id, run_id)
    return best[1:] if best else None


def install_best(
    folder: Path, trial_id: str, run_id: str, confirmed: Sequence[ConfirmedConfiguration] = ()
) -> None:
    """Fill `folder/best` with the measured model of a run of `trial_id` (the trial itself, or its retraining).

    No call exchanges two folders, so between two renames there is no `best`. A process killed there leaves none: a resumed
    sweep comes by here again.
    """
    for stale in folder.glob(f".{FOLDER}.*"):  # of a process that was killed
        shutil.rmtree(stale, ignore_errors=True)
    workspace = Path(tempfile.mkdtemp(dir=folder, prefix=f".{FOLDER}."))
    new, old = workspace / "new", workspace / "old"
    try:
        shutil.copytree(measured_folder(folder, run_id), new)
        record = json.loads((new / METRICS_FILE).read_text(encoding="utf-8"))
        record |= {"trial_id": trial_id, "run_id": run_id}
        if confirmed:
            record["confirm"] = confirm_record(list(confirmed))
        write_record(new, record)
        if (folder / FOLDER).exists():
            (folder / FOLDER).rename(old)
        try:
            new.rename(folder / FOLDER)
        except OSError:
            if old.exists():
                old.rename(folder / FOLDER)
            raise
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
