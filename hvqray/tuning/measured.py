"""Runs measured on `test`: each once, in a copy of its checkpoint that is there only when it is whole."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hvqray.config.sections import RunConfig
from hvqray.errors import InputError
from hvqray.results.confirm_store import read_confirm_starts
from hvqray.results.stored_trials import read_starts
from hvqray.training.checkpoint import (
    CONFIG_FILE,
    METRICS_FILE,
    is_whole,
    save_config,
    share_weights,
    trial_folder,
)
from hvqray.training.measure import SCORES_FILE, ImageScores, read_test_scores
from hvqray.tuning.resources import TrialResources


def measured_folder(folder: Path, run_id: str) -> Path:
    """Where the measured copy of a run's checkpoint lies; the run itself never sees `test`."""
    return trial_folder(folder, run_id) / "measured"


def scores_of_runs(folder: Path, run_ids: Sequence[str]) -> list[Mapping[str, ImageScores]] | None:
    """What was measured of the images of `test` by each run; None where the runs' folders are gone: `.state` may be deleted."""
    checkpoints = [measured_folder(folder, run_id) for run_id in run_ids]
    if not all((checkpoint / SCORES_FILE).exists() for checkpoint in checkpoints):
        return None
    return [read_test_scores(checkpoint) for checkpoint in checkpoints]


def not_measured(folder: Path, run_ids: Sequence[str]) -> list[str]:
    """Those of the runs that have no such copy yet."""
    return [run_id for run_id in run_ids if not measured_folder(folder, run_id).exists()]


def measure_runs(
    folder: Path, run_ids: Sequence[str], *, resources: TrialResources, cache_dir: Path | None
) -> None:
    """Measure those that have not been, at the same time, where workers' resources are; a single one that wants no GPU in this process
    where there is no other machine.

    Raises:
        InputError: The checkpoint of one is gone, or its classes are no longer those of the data.
    """
    import ray

    pending = not_measured(folder, run_ids)
    _check_checkpoints(folder, pending, cache_dir)
    threads, gpus = resources.threads_per_worker, resources.gpus_per_worker
    if len(pending) == 1 and not gpus and sum(node["Alive"] for node in ray.nodes()) == 1:
        # A new process would import torch and all else first, which takes longer than to measure a small model.
        from hvqray.data.cores import torch_threads

        with torch_threads(threads):
            _measure(folder, pending[0], "cpu", cache_dir)
        return
    try:
        _measure_in_tasks(folder, pending, resources, cache_dir)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise


def _measure_in_tasks(
    folder: Path, run_ids: Sequence[str], resources: TrialResources, cache_dir: Path | None
) -> None:
    import ray
    from ray.util import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from hvqray.tuning.room import LOOK_EVERY_S, RoomWatch

    threads, gpus = resources.threads_per_worker, resources.gpus_per_worker
    measure = ray.remote(
        num_cpus=resources.cpus_per_worker,
        num_gpus=gpus,
        memory=resources.memory_per_worker,
        max_retries=1,
    )(measure_run)
    # As trials have theirs: of a placement group Ray tells whether it waits for room, of a task by itself it does not.
    rooms = [placement_group([resources.of_worker]) for _ in run_ids]
    try:
        room_of = {
            measure.options(scheduling_strategy=PlacementGroupSchedulingStrategy(room)).remote(
                folder, run_id, threads, gpus, cache_dir
            ): room
            for run_id, room in zip(run_ids, rooms, strict=True)
        }
        watch, waited_for = RoomWatch(replace(resources, workers=1), "measurement"), list(room_of)
        while waited_for:
            ended, waited_for = ray.wait(waited_for, timeout=LOOK_EVERY_S)
            for run in ended:
                ray.get(run)
                remove_placement_group(room_of[run])
            if not ended:
                watch.look()
    finally:
        for room in rooms:
            remove_placement_group(room)


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


def _check_checkpoints(folder: Path, run_ids: Sequence[str], cache_dir: Path | None) -> None:
    """Raise InputError where files are gone that training left. A configuration that is gone is taken from the journal again, since
    the mend takes it."""
    gone = [run_id for run_id in run_ids if not is_whole(trial_folder(folder, run_id))]
    if not gone:
        return
    starts = read_starts(folder) | read_confirm_starts(folder)
    for run_id in gone:
        if not (trial_folder(folder, run_id) / CONFIG_FILE).is_file():
            save_config(trial_folder(folder, run_id), RunConfig.model_validate(starts[run_id].config))
    command = ["python", "-m", "hvqray.train", "--trial", f"{folder}:{gone[0]}"]
    command += ["--out", str(trial_folder(folder, gone[0]))]
    # With features that were computed anew, figures may differ in their last bits.
    command += [] if cache_dir is None else ["--cache-dir", str(cache_dir)]
    others = f", and likewise those of {', '.join(gone[1:])}" if gone[1:] else ""
    raise InputError(
        f"the checkpoint of {gone[0]} is gone; train it again by `{shlex.join(command)}`{others}, then give the sweep's command again"
        " with --resume",
        source=str(folder),
    )


def _check_classes(checkpoint: Path, cache_dir: Path | None) -> None:
    """Raise InputError where the data have other classes than when the model was trained: each goes by its index."""
    from hvqray.data.cache import cache_dir_or_default
    from hvqray.data.prepare import open_dataset
    from hvqray.training.checkpoint import load_model

    loaded = load_model(checkpoint)
    then = loaded.context.class_names
    now = open_dataset(loaded.config.data, cache_dir=cache_dir_or_default(cache_dir)).class_names
    if now != then:
        raise InputError(
            f"the model was trained on the classes {', '.join(then)}, and the data have {', '.join(now)}; restore the data, or begin"
            " another sweep with --set name=NAME",
            source=str(checkpoint),
        )


def _measure(folder: Path, run_id: str, device: str, cache_dir: Path | None) -> None:
    from hvqray.training.measure import measure_on_test

    target = measured_folder(folder, run_id)
    _check_classes(target.parent, cache_dir)
    for stale in target.parent.glob(f".{target.name}.*"):
        shutil.rmtree(stale, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        aside.chmod(0o755)
        for name in (CONFIG_FILE, METRICS_FILE):
            shutil.copy(target.parent / name, aside / name)
        share_weights(target.parent, aside)
        measure_on_test(aside, device=device, cache_dir=cache_dir)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
