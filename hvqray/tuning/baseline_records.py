"""What a sweep's baselines reached, laid down in `best`/metrics.json with the intervals of what the best model has more."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hvqray.baselines.measure import ChosenBaseline
from hvqray.results.confirmation import NO_QUANTIZER, OTHER_SWEEP, ConfirmedConfiguration, confirm_record
from hvqray.results.joint import joint_metrics
from hvqray.results.sweep_folder import read_best
from hvqray.training.checkpoint import METRICS_FILE, write_record
from hvqray.training.measure import SCORES_FILE, ImageScores, read_test_scores, stored_histograms
from hvqray.tuning.confirm_stats import Scores, differences
from hvqray.tuning.measured import scores_of_runs


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
        scores_of_runs(best.parent, result.run_ids),
    )
    write_record(best, _with_baselines(record, [entry]))


def write_other_sweep(best: Path, other: Path, *, name: str, class_name: str | None = None) -> None:
    """Put the best model of the sweep in folder `other`, on the same images, among the baselines, as `sweep NAME`.

    Its figures are those that it would have against baselines of its own: means over the seeds, where it was confirmed. With a
    `class_name` they are those of that class alone.
    """
    result = read_best(other)
    assert result is not None, "checked before"
    settings: dict[str, Any] = {"trial": result.trial_id}
    if confirmed := result.held_configuration():
        settings["seeds"] = ", ".join(map(str, confirmed.seeds))
    metrics = result.held_against_baselines()[1]
    scores = _test_scores(other / "best", _read_record(other / "best"))
    if class_name is not None:
        metrics = joint_metrics({class_name: metrics})
        scores = scores and [{class_name: each[class_name]} for each in scores]
    record = _read_record(best)
    entry = _entry(f"{OTHER_SWEEP}{name}", settings, metrics, _test_scores(best, record), scores)
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
        return scores_of_runs(best.parent, confirmed["run_ids"])
    return [read_test_scores(best)] if (best / SCORES_FILE).exists() else None


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
