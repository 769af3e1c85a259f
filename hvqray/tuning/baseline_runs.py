"""The baselines of a sweep: measured on the best configuration's data, and its configuration trained without a quantiser."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch
from rich.console import Console

from hvqray.baselines.measure import BaselineName, ChosenBaseline, choose
from hvqray.baselines.stored import baseline_results
from hvqray.config.run_config import config_hash, load_run_config
from hvqray.config.sections import RunConfig
from hvqray.config.sweep_file import SweepFile
from hvqray.data.cores import torch_threads
from hvqray.data.prepare import prepare_data
from hvqray.data.progress import Progress, progress_bar, silent
from hvqray.environment import usable_cores
from hvqray.results.confirm_store import ConfirmStore
from hvqray.results.confirmation import NO_QUANTIZER, ConfirmedConfiguration, no_quantizer_id
from hvqray.results.events import Goal, SweepListener, TrialStart
from hvqray.results.stored_trials import read_starts
from hvqray.training.checkpoint import CONFIG_FILE
from hvqray.tuning.baseline_records import write_baselines, write_without_quantizer
from hvqray.tuning.best import FOLDER
from hvqray.tuning.confirm import (
    completed_runs,
    confirmed_configuration,
    run_confirmation,
    runs_over_seeds,
)
from hvqray.tuning.measured import measure_runs
from hvqray.tuning.sweep_data import uses_gpu
from hvqray.tuning.tune_run import SearchPlan


def hold_against_baselines(
    sweep: SweepFile,
    plan: SearchPlan,
    trial_id: str,
    run_id: str,
    *,
    code_version: str,
    listeners: Sequence[SweepListener],
    console: Console,
) -> ConfirmedConfiguration | None:
    """Lay the results of the sweep file's baselines down beside those of the best model, a run of `trial_id`.

    Returns what came out of the runs without a quantiser, None where there are none.
    """

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    best, names = plan.folder / FOLDER, sweep.baselines
    say(f"holding {trial_id} against {', '.join(names)}")
    with progress_bar(console) as progress, torch_threads(usable_cores()):
        results = measure_baselines(
            best,
            [name for name in names if name != NO_QUANTIZER],
            (sweep.metric[0].name, sweep.metric[0].goal),
            cache_dir=plan.cache_dir,
            device="cuda" if uses_gpu(sweep) else "cpu",
            progress=progress,
        )
    write_baselines(best, results)
    if uses_gpu(sweep):
        torch.cuda.empty_cache()  # the run without a quantiser wants the memory
    if NO_QUANTIZER not in names:
        return None
    if read_starts(plan.folder)[trial_id].config["model"]["quantizer"] == "none":
        say(f"{trial_id} has no quantiser, so there is nothing to hold against it")
        return None
    result = train_without_quantizer(
        sweep,
        plan,
        trial_id,
        seeds=sweep.confirm.seeds if run_id != trial_id else None,
        code_version=code_version,
        listeners=listeners,
    )
    for failed_id, error in result.failed.items():
        # Means over different seeds are not held against each other.
        say(f"{failed_id} failed, so there is nothing without a quantiser to compare with: {error}")
    if not result.failed:
        write_without_quantizer(best, result)
    return result


def measure_baselines(
    best: Path,
    names: Sequence[BaselineName],
    objective: tuple[str, Goal],
    *,
    cache_dir: Path | None,
    device: str = "cpu",
    progress: Progress = silent,
) -> list[ChosenBaseline]:
    """Each baseline on the data of the model in `best`, each class set as is best on `val` by the sweep's first metric."""
    data = prepare_data(load_run_config(best / CONFIG_FILE).data, cache_dir=cache_dir, device=device)
    return [
        choose(
            baseline_results(name, data, cache_dir=cache_dir, device=device, progress=progress), *objective
        )
        for name in names
    ]


def train_without_quantizer(
    sweep: SweepFile,
    plan: SearchPlan,
    trial_id: str,
    *,
    seeds: Sequence[int] | None,
    code_version: str,
    listeners: Sequence[SweepListener],
) -> ConfirmedConfiguration:
    """Retrain a trial's configuration with `model.quantizer: none`, and measure it.

    With `seeds`, those over which the configuration was confirmed and whose mean it is held against; None means the trial's own.
    """
    start = read_starts(plan.folder)[trial_id]
    quantized = [start] if seeds is None else runs_over_seeds(start, seeds)
    runs = [without_quantizer(run, trial_id) for run in quantized]
    with closing(ConfirmStore(plan.folder, code_version=code_version)) as store:
        run_confirmation(sweep, plan, runs, store, listeners)
    measure_runs(
        plan.folder, completed_runs(plan.folder, runs), resources=plan.resources, cache_dir=plan.cache_dir
    )
    return confirmed_configuration(plan.folder, no_quantizer_id(trial_id), runs)


def without_quantizer(start: TrialStart, trial_id: str) -> TrialStart:
    """The run `t0004-s1-no-quantizer` of a run `t0004-s1` of trial `t0004`: the same but for `model.quantizer: none`."""
    config = {**start.config, "model": {**start.config["model"], "quantizer": "none"}}
    return TrialStart(
        trial_id=no_quantizer_id(start.trial_id),
        number=start.number,
        params={**start.params, "model.quantizer": "none"},
        config=config,
        config_hash=config_hash(RunConfig.model_validate(config)),
        seed=start.seed,
        confirms=trial_id,
    )
