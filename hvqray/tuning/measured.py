"""Runs measured on `test`: each once, in a copy of its checkpoint that is there only when it is whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hvqray.training.checkpoint import CONFIG_FILE, METRICS_FILE, MODEL_FILE, trial_folder
from hvqray.tuning.resources import TrialResources


def measured_folder(folder: Path, run_id: str) -> Path:
    """Where the measured copy of a run's checkpoint lies; the run itself never sees `test`."""
    return trial_folder(folder, run_id) / "measured"


def measure_runs(
    folder: Path, run_ids: Sequence[str], *, resources: TrialResources, cache_dir: Path | None
) -> None:
    """Measure those that have not been, at the same time, where workers' resources are."""
    import ray

    remote = ray.remote(
        num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker, max_retries=1
    )(measure_run)
    pending = [
        remote.remote(folder, run_id, resources.threads_per_worker, resources.gpus_per_worker, cache_dir)
        for run_id in run_ids
        if not measured_folder(folder, run_id).exists()
    ]
    ray.get(pending)


def measure_run(folder: Path, run_id: str, threads: int, gpus: float, cache_dir: Path | None) -> None:
    """Measure one run in this process."""
    import torch

    from hvqray.training.measure import measure_on_test
    from hvqray.training.run_memory import bound_slot
    from hvqray.tuning.trial import quieten_worker

    quieten_worker()
    torch.set_num_threads(threads)
    device = "cuda" if gpus else "cpu"
    bound_slot(torch.device(device), gpus)
    target = measured_folder(folder, run_id)
    for stale in target.parent.glob(f".{target.name}.*"):
        shutil.rmtree(stale, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        aside.chmod(0o755)
        for name in (CONFIG_FILE, METRICS_FILE):
            shutil.copy(target.parent / name, aside / name)
        try:  # weights are only ever replaced as a whole, so two names may share them
            os.link(target.parent / MODEL_FILE, aside / MODEL_FILE)
        except OSError:  # some file systems have no hard links
            shutil.copy(target.parent / MODEL_FILE, aside / MODEL_FILE)
        measure_on_test(aside, device=device, cache_dir=cache_dir)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
