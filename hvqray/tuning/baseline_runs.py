"""The baselines of a sweep: measured on the best configuration's data, and laid down beside the best model's results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Final

from hvqray.atomic import write_atomically
from hvqray.baselines.measure import BaselineName, BaselineResult, choose
from hvqray.baselines.stored import baseline_results
from hvqray.config.run_config import config_hash, load_run_config
from hvqray.config.sections import RunConfig
from hvqray.config.sweep_file import SweepFile
from hvqray.data.prepare import prepare_data
from hvqray.data.progress import Progress, silent
from hvqray.results.confirm_store import ConfirmStore
from hvqray.results.events import Goal, SweepListener, TrialStart
from hvqray.results.store import read_starts
from hvqray.training.checkpoint import CONFIG_FILE, METRICS_FILE
from hvqray.tuning.confirm import completed_runs, run_confirmation
from hvqray.tuning.measured import measure_runs, measured_folder
from hvqray.tuning.tune_run import SearchPlan

NO_QUANTIZER: Final = "no_quantizer"


def measure_baselines(
    best: Path,
    names: Sequence[BaselineName],
    objective: tuple[str, Goal],
    *,
    cache_dir: Path | None,
    device: str = "cpu",
    progress: Progress = silent,
) -> list[BaselineResult]:
    """Each baseline on the data of the model in `best`, set as is best on `val` by the sweep's first metric."""
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
    code_version: str,
    listeners: Sequence[SweepListener],
) -> BaselineResult | None:
    """Retrain a trial's configuration, its seed included, with `model.quantizer: none`, and measure it; None where it fails."""
    run = without_quantizer(read_starts(plan.folder)[trial_id])
    with closing(ConfirmStore(plan.folder, code_version=code_version)) as store:
        run_confirmation(sweep, plan, [run], store, listeners)
    if not completed_runs(plan.folder, [run]):
        return None
    measure_runs(plan.folder, [run.trial_id], resources=plan.resources, cache_dir=plan.cache_dir)
    record = json.loads(
        (measured_folder(plan.folder, run.trial_id) / METRICS_FILE).read_text(encoding="utf-8")
    )
    metrics = {name: value for name, value in record["metrics"].items() if name.startswith(("val/", "test/"))}
    return BaselineResult(NO_QUANTIZER, {}, metrics)


def without_quantizer(start: TrialStart) -> TrialStart:
    """The run `t0004-no-quantizer` of a trial `t0004`: the same but for `model.quantizer: none`."""
    config = {**start.config, "model": {**start.config["model"], "quantizer": "none"}}
    return TrialStart(
        trial_id=f"{start.trial_id}-no-quantizer",
        number=start.number,
        params={**start.params, "model.quantizer": "none"},
        config=config,
        config_hash=config_hash(RunConfig.model_validate(config)),
        seed=start.seed,
        confirms=start.trial_id,
    )


def write_baselines(best: Path, results: Sequence[BaselineResult]) -> None:
    """Put them into `best`/metrics.json under `baselines`, in place of those of the same names."""
    record = json.loads((best / METRICS_FILE).read_text(encoding="utf-8"))
    fresh = {result.name: asdict(result) for result in results}
    kept = {each["name"]: each for each in record.get("baselines", [])}
    record["baselines"] = list((kept | fresh).values())
    write_atomically(best / METRICS_FILE, json.dumps(record, indent=2, allow_nan=False) + "\n")
