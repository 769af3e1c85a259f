"""The best trial: chosen on `val`, measured once on `test`, and laid out in `best/` for users."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hvqray.results.events import Goal
from hvqray.results.history import TrialRecord
from hvqray.results.ranking import ranked
from hvqray.training.checkpoint import CONFIG_FILE, METRICS_FILE, MODEL_FILE, trial_folder
from hvqray.training.measure import measure_on_test
from hvqray.tuning.resources import TrialResources

FOLDER = "best"


def best_trial(trials: list[TrialRecord], goals: Mapping[str, Goal]) -> TrialRecord | None:
    """The best COMPLETE trial by the first metric; None where no trial is complete."""
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    return ranked(complete, goals)[0] if complete else None


def install_best(
    folder: Path, trial_id: str, *, resources: TrialResources, cache_dir: Path | None
) -> dict[str, Any]:
    """Measure the trial's model on `test`, where a worker's resources are, and fill `folder/best`; returns its record."""
    import ray

    remote = ray.remote(
        num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker, max_retries=1
    )(_install)
    return ray.get(
        remote.remote(
            folder, trial_id, resources.threads_per_worker, bool(resources.gpus_per_worker), cache_dir
        )
    )


def _install(
    folder: Path, trial_id: str, threads: int, use_gpu: bool, cache_dir: Path | None
) -> dict[str, Any]:
    from hvqray.tuning.trial import quieten_worker

    quieten_worker()
    torch.set_num_threads(threads)
    source = trial_folder(folder, trial_id)
    aside = Path(tempfile.mkdtemp(dir=folder, prefix=f".{FOLDER}."))
    try:
        aside.chmod(0o755)
        for name in (MODEL_FILE, CONFIG_FILE, METRICS_FILE):
            shutil.copy(source / name, aside / name)
        record = measure_on_test(aside, device="cuda" if use_gpu else "cpu", cache_dir=cache_dir)
        replaced = aside.with_name(f"{aside.name}.old")
        if (folder / FOLDER).exists():
            (folder / FOLDER).rename(replaced)
        aside.rename(folder / FOLDER)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return record
