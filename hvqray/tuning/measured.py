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
    """Measure those that have not been, at the same time, where workers' resources are; a single one that wants no GPU in this process
    where there is no other machine."""
    import ray

    pending = [run_id for run_id in run_ids if not measured_folder(folder, run_id).exists()]
    threads, gpus = resources.threads_per_worker, resources.gpus_per_worker
    if len(pending) == 1 and not gpus and sum(node["Alive"] for node in ray.nodes()) == 1:
        # A new process would import torch and all else first, which takes longer than to measure a small model.
        from hvqray.data.cores import torch_threads

        with torch_threads(threads):
            _measure(folder, pending[0], "cpu", cache_dir)
        return
    remote = ray.remote(num_cpus=resources.cpus_per_worker, num_gpus=gpus, max_retries=1)(measure_run)
    ray.get([remote.remote(folder, run_id, threads, gpus, cache_dir) for run_id in pending])


def measure_run(folder: Path, run_id: str, threads: int, gpus: float, cache_dir: Path | None) -> None:
    """Measure one run in this process, which is there for nothing else."""
    import torch

    from hvqray.training.run_memory import bound_slot
    from hvqray.tuning.trial import quieten_worker

    quieten_worker()
    torch.set_num_threads(threads)
    device = "cuda" if gpus else "cpu"
    bound_slot(torch.device(device), gpus)
    _measure(folder, run_id, device, cache_dir)


def _measure(folder: Path, run_id: str, device: str, cache_dir: Path | None) -> None:
    from hvqray.training.measure import measure_on_test

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
