"""The baselines of a sweep: measured on the best configuration's data, and laid down beside the best model's results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from hvqray.baselines.measure import BaselineName, ChosenBaseline, choose
from hvqray.baselines.stored import baseline_results
from hvqray.config.run_config import config_hash, load_run_config
from hvqray.config.sections import RunConfig
from hvqray.config.sweep_file import SweepFile
from hvqray.data.prepare import prepare_data
from hvqray.data.progress import Progress, silent
from hvqray.results.confirm_store import ConfirmStore
from hvqray.results.confirmation import NO_QUANTIZER, ConfirmedConfiguration, confirm_record, no_quantizer_id
from hvqray.results.events import Goal, SweepListener, TrialStart
from hvqray.results.stored_trials import read_starts
from hvqray.training.checkpoint import CONFIG_FILE, METRICS_FILE, write_record
from hvqray.training.measure import SCORES_FILE, ImageScores, read_test_scores, stored_histograms
from hvqray.tuning.confirm import (
    completed_runs,
    confirmed_configuration,
    run_confirmation,
    runs_over_seeds,
)
from hvqray.tuning.confirm_stats import Scores, differences
from hvqray.tuning.measured import measure_runs, measured_folder
from hvqray.tuning.tune_run import SearchPlan


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


def write_baselines(best: Path, results: Sequence[ChosenBaseline]) -> None:
    """Put them into `best`/metrics.json under `baselines`, in place of those of the same names."""
    record = _read_record(best)
    scores = _test_scores(best, record)
    entries = [
        _entry(
            each.name,
            each.settings,
            each.metrics,
            scores,
            [_scores_of_baseline(each, scores[0])] if scores else None,
        )
        for each in results
    ]
    write_record(best, _with_baselines(record, entries))


def write_without_quantizer(best: Path, result: ConfirmedConfiguration) -> None:
    """Put its means over the seeds among the baselines, and where it was trained over the seeds of the confirmation its spreads under `confirm`."""
    settings: dict[str, Any] = {}
    record = _read_record(best)
    if record.get("run_id", record["trial_id"]) != record["trial_id"]:  # the best model is from a retraining
        settings = {"seeds": ", ".join(map(str, result.seeds))}
        others = [each for each in record["confirm"] if each["trial_id"] != result.trial_id]
        record["confirm"] = others + confirm_record([result])
    means = {name: spread.mean for name, spread in result.metrics.items()}
    entry = _entry(
        NO_QUANTIZER,
        settings,
        means,
        _test_scores(best, record),
        _scores_of_runs(best.parent, result.run_ids),
    )
    write_record(best, _with_baselines(record, [entry]))


def _with_baselines(record: dict[str, Any], entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    fresh = {entry["name"]: entry for entry in entries}
    kept = {each["name"]: each for each in record.get("baselines", [])}
    for name, entry in fresh.items():
        same = {**entry, "more": kept.get(name, {}).get("more")}
        if "more" not in entry and kept.get(name) == same:
            fresh[name] = same  # the runs' scores are gone since it was worked out
    return record | {"baselines": list((kept | fresh).values())}


def _entry(
    name: str,
    settings: Mapping[str, Any],
    metrics: Mapping[str, float | None],
    scores: Sequence[Scores] | None,
    others: Sequence[Scores] | None,
) -> dict[str, Any]:
    """What metrics.json says of a baseline: `more` holds the intervals of what the best model has more, where both have scores."""
    entry: dict[str, Any] = {"name": name, "settings": dict(settings), "metrics": dict(metrics)}
    if scores and others:
        try:
            more = differences(scores, others)
        except ValueError:  # the dataset's files have changed since the model was measured
            return entry
        entry["more"] = {name: {"low": low, "high": high} for name, (low, high) in more.items()}
    return entry


def _test_scores(best: Path, record: dict[str, Any]) -> list[Scores] | None:
    """Image scores of the runs whose means the baselines are held against: of all seeds, where it was confirmed."""
    run_id = record.get("run_id", record["trial_id"])
    if run_id != record["trial_id"]:
        (confirmed,) = (each for each in record["confirm"] if each["trial_id"] == record["trial_id"])
        return _scores_of_runs(best.parent, confirmed["run_ids"])
    return [read_test_scores(best)] if (best / SCORES_FILE).exists() else None


def _scores_of_runs(folder: Path, run_ids: Sequence[str]) -> list[Scores] | None:
    """None where the runs' folders are gone: `.state` may be deleted."""
    checkpoints = [measured_folder(folder, run_id) for run_id in run_ids]
    if not all((checkpoint / SCORES_FILE).exists() for checkpoint in checkpoints):
        return None
    return [read_test_scores(checkpoint) for checkpoint in checkpoints]


def _scores_of_baseline(result: ChosenBaseline, like: Scores) -> Scores:
    """A baseline's image scores; the images' groups are those of the model's scores, if these are of the same images."""
    found: dict[str, ImageScores] = {}
    for class_name, labels in result.test_labels.items():
        images = like.get(class_name)
        same = images is not None and len(images.group_n) == len(labels)
        found[class_name] = ImageScores(
            np.array(labels, dtype=bool),
            np.array(result.test_scores[class_name], np.float32),
            images.group_n if images is not None and same else np.arange(len(labels)),
            stored_histograms(result.test_pixels[class_name], class_name, result.metrics)
            if class_name in result.test_pixels
            else None,
        )
    return found


def _read_record(best: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((best / METRICS_FILE).read_text(encoding="utf-8"))
    return content
