"""Retraining runs that the search has made already: with a trial's own seed its configuration would be trained to the same result once more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hvqray.atomic import replacing_folder
from hvqray.environment import DIRTY
from hvqray.results.confirm_store import read_confirm_runs
from hvqray.results.events import SweepListener, TrialStart
from hvqray.results.stored_trials import read_trials
from hvqray.results.wandb_earlier import EarlierRun, read_earlier_runs
from hvqray.training.checkpoint import (
    METRICS_FILE,
    MODEL_FILE,
    RESUME_FILE,
    is_whole,
    share_weights,
    trial_folder,
    write_record,
)
from hvqray.training.epoch_report import EpochReport
from hvqray.tuning.measured import measured_folder


def take_over(
    folder: Path, runs: Sequence[TrialStart], listeners: Sequence[SweepListener], *, code_version: str
) -> dict[str, str]:
    """Have trials stand for those of `runs` that have not begun and are of the same configuration and seed; run id to trial id.

    A trial does if it was trained to the end by this very `code_version`, which is not that of a checkout with changes of its own, and
    still has its weights. The run gets a folder of its own, and the listeners, the store of the runs first, hear of it as if it
    had been trained now.
    """
    if code_version.endswith(DIRTY):
        return {}
    begun = read_confirm_runs(folder).keys() | {
        run.trial_id for run in runs if (trial_folder(folder, run.trial_id) / RESUME_FILE).exists()
    }
    trial_of = {
        trial.config_hash: trial.trial_id
        for trial in reversed(read_trials(folder))
        if trial.state == "COMPLETE"
        and trial.code_version == code_version
        and is_whole(trial_folder(folder, trial.trial_id))
    }
    taken = {
        run.trial_id: trial_of[run.config_hash]
        for run in runs
        if run.trial_id not in begun and run.config_hash in trial_of
    }
    earlier = read_earlier_runs(folder, set(taken.values()).__contains__) if taken else {}
    for run_id, trial_id in taken.items():
        _copy_folder(folder, trial_id, run_id)
    for run in runs:
        if run.trial_id in taken:
            _tell(listeners, run, earlier[taken[run.trial_id]], trial_folder(folder, run.trial_id))
    return taken


def _copy_folder(folder: Path, trial_id: str, run_id: str) -> None:
    """All of the trial's folder but what it goes on from and what was measured on `test`, under the run's name.

    The weights are the same file, in whose header the trial's name stays.
    """
    source, target = trial_folder(folder, trial_id), trial_folder(folder, run_id)
    measured = measured_folder(folder, trial_id).name
    for stale in target.parent.glob(f".{run_id}.*"):
        shutil.rmtree(stale, ignore_errors=True)
    with replacing_folder(target) as aside:
        shutil.copytree(
            source,
            aside,
            ignore=shutil.ignore_patterns(measured, f".{measured}.*", RESUME_FILE, MODEL_FILE),
            dirs_exist_ok=True,
        )
        share_weights(source, aside)
        record = json.loads((source / METRICS_FILE).read_text(encoding="utf-8"))
        write_record(aside, {**record, "trial_id": run_id})


def _tell(listeners: Sequence[SweepListener], run: TrialStart, trial: EarlierRun, path: Path) -> None:
    assert trial.end is not None, "only trials that have ended are taken over"
    end = replace(trial.end, trial_id=run.trial_id, folder=str(path))
    reports = [
        EpochReport(
            epoch=epoch,
            num_epochs=end.epochs,
            metrics=metrics,
            duration_s=end.duration_s if duration_s is None else duration_s,
            is_last=epoch == end.epochs,
        )
        for epoch, (metrics, duration_s) in sorted(trial.epochs.items())
    ]
    for listener in listeners:
        listener.on_trial_start(run)
        for report in reports:
            listener.on_epoch(run.trial_id, report)
        listener.on_trial_end(end)
