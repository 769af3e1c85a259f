"""The two Parquet files of a sweep: what has happened, as tables with an explicit schema, and back.

`docs/results-files.md` tells users about every column.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hvqray.atomic import replacing
from hvqray.errors import InputError
from hvqray.results.history import Epochs, Metrics, SweepInfo, TrialRecord, info_of
from hvqray.training.epoch_report import MEAN, split_metric_name

_INFO_KEY = b"hvqray.sweep"
_SELECTED_KEY = b"hvqray.selected_on_test"
_PARAM_PREFIX = "param."
_LEADING = {"trial_id": pa.string(), "number": pa.int64(), "state": pa.string(), "params": pa.string()}
_TRAILING = {
    "epochs": pa.int64(),
    "duration_s": pa.float64(),
    "config_hash": pa.string(),
    "seed": pa.int64(),
    "error": pa.string(),
    "code_version": pa.string(),
}
_METRICS_SCHEMA = pa.schema(
    {
        "trial_id": pa.string(),
        "epoch": pa.int64(),
        "split": pa.string(),
        "class_name": pa.string(),
        "metric": pa.string(),
        "value": pa.float64(),
    }
)


def trials_table(trials: list[TrialRecord], info: SweepInfo) -> pa.Table:
    """A row a trial that has ended; parameters and metrics are columns in the order in which they first occur."""
    columns: dict[str, pa.Array] = {
        name: pa.array([_fixed_value(trial, name) for trial in trials], type=kind)
        for name, kind in _LEADING.items()
    }
    for name in dict.fromkeys(name for trial in trials for name in trial.params):
        columns[_PARAM_PREFIX + name] = _param_column([trial.params.get(name) for trial in trials])
    for name in dict.fromkeys(name for trial in trials for name in trial.metrics):
        columns[name] = pa.array([trial.metrics.get(name) for trial in trials], type=pa.float64())
    for name, kind in _TRAILING.items():
        columns[name] = pa.array([getattr(trial, name) for trial in trials], type=kind)
    return pa.table(columns).replace_schema_metadata({_INFO_KEY: json.dumps(dataclasses.asdict(info))})


def epoch_table(trial_id: str, epoch: int, metrics: Metrics) -> pa.Table:
    """The long form of one report: a row a metric."""
    names = [split_metric_name(name) for name in metrics]
    columns = [
        [trial_id] * len(names),
        [epoch] * len(names),
        [split for split, _, _ in names],
        [class_name for _, class_name, _ in names],
        [metric for _, _, metric in names],
        list(metrics.values()),
    ]
    arrays = [
        pa.array(column, type=kind) for column, kind in zip(columns, _METRICS_SCHEMA.types, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=_METRICS_SCHEMA)


def concatenate_epochs(tables: list[pa.Table]) -> pa.Table:
    """One table of all trials' reports."""
    return pa.concat_tables([_METRICS_SCHEMA.empty_table(), *tables])


def write_table(path: Path, table: pa.Table, *, selected_on_test: bool) -> None:
    """Replace `path` in one step; whether `val` was the test split goes into the file's metadata."""
    mark = {_SELECTED_KEY: json.dumps(selected_on_test)}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **mark})
    with replacing(path) as aside:
        pq.write_table(table, aside)


def read_trials_table(path: Path) -> tuple[list[TrialRecord], SweepInfo]:
    """The trials of a `trials.parquet`, and the sweep they belong to. Raises InputError where it is damaged."""
    with _told_where_damaged(path):
        table = pq.read_table(path)
        info = info_of(json.loads(table.schema.metadata[_INFO_KEY]))
        known = {*_LEADING, *_TRAILING}
        metric_names = [
            name for name in table.column_names if name not in known and not name.startswith(_PARAM_PREFIX)
        ]
        trials = [
            TrialRecord(
                **{name: row[name] for name in (*_LEADING, *_TRAILING) if name != "params"},
                params=json.loads(row["params"]),
                metrics={name: row[name] for name in metric_names},
            )
            for row in table.to_pylist()
        ]
    return trials, info


def read_epochs_table(path: Path) -> dict[str, Epochs]:
    """Trial id to the reports in a `metrics.parquet`, with flat metric names again. Raises InputError where it is damaged."""
    with _told_where_damaged(path):
        return epochs_of(pq.read_table(path))


def epochs_of(table: pa.Table) -> dict[str, Epochs]:
    """Trial id to the reports in a table of the long form; the inverse of `epoch_table` and `concatenate_epochs`."""
    trials: dict[str, Epochs] = {}
    for row in table.to_pylist():
        name = _flat_name(row["split"], row["class_name"], row["metric"])
        trials.setdefault(row["trial_id"], {}).setdefault(row["epoch"], {})[name] = row["value"]
    return trials


@contextmanager
def _told_where_damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"is damaged ({type(error).__name__}: {str(error)[:200]}); restore it from a copy, since the journal that it was made of"
            " is gone too",
            source=str(path),
        ) from error


def _fixed_value(trial: TrialRecord, name: str) -> Any:
    return json.dumps(trial.params, ensure_ascii=False) if name == "params" else getattr(trial, name)


def _param_column(values: list[Any]) -> pa.Array:
    """Numbers, booleans and strings as such; lists and mixed kinds as JSON."""
    kinds = {type(value) for value in values if value is not None}
    for allowed, column_type in (
        ({bool}, pa.bool_()),
        ({int}, pa.int64()),
        ({int, float}, pa.float64()),
        ({str}, pa.string()),
    ):
        if kinds <= allowed:
            return pa.array(values, type=column_type)
    texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    return pa.array(texts, type=pa.string())


def _flat_name(split: str, class_name: str, metric: str) -> str:
    """The inverse of `split_metric_name`."""
    if metric.startswith("codebook/"):
        level, _, health = metric.rpartition("/")
        return metric if class_name == MEAN else f"{level}/{class_name}/{health}"
    return f"{split}/{metric}" if class_name == MEAN else f"{split}/{class_name}/{metric}"
