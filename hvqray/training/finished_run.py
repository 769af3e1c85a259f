"""What a run's folder holds before training begins: a finished run, one to go on with, or one that must not be mixed with this one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvqray.atomic import make_folder
from hvqray.config.run_config import config_hash, load_run_config
from hvqray.config.sections import RunConfig
from hvqray.data.dataset import PreparedData
from hvqray.errors import InputError
from hvqray.training.anomaly_images import EXAMPLES
from hvqray.training.checkpoint import (
    CONFIG_FILE,
    METRICS_FILE,
    MODEL_FILE,
    RESUME_FILE,
    load_model,
    read_record,
    save_config,
    write_record,
)


@dataclass(frozen=True)
class FinishedRun:
    """A run that is not to be trained again."""

    record: dict[str, Any]
    """As in metrics.json."""
    class_names: tuple[str, ...]


def find_finished_run(config: RunConfig, out: Path, metric: str) -> FinishedRun | None:
    """The finished run in `out`; None where there is none, or one that was interrupted and goes on.

    Raises:
        InputError: It is of another configuration or another metric: one would be replaced by the other, or mixed with it.
    """
    make_folder(out, option="--out")
    has_model = (out / MODEL_FILE).is_file() and not (out / RESUME_FILE).exists()
    record: dict[str, Any] = {}
    class_names: tuple[str, ...] = ()
    if has_model:
        loaded = load_model(out)
        record, found, class_names = loaded.metrics, loaded.config, loaded.context.class_names
    elif (out / CONFIG_FILE).is_file():
        found = load_run_config(out / CONFIG_FILE)
        if (out / METRICS_FILE).is_file():
            record = read_record(out / METRICS_FILE)
        elif not (out / RESUME_FILE).exists():
            return None  # not an epoch was finished
    else:
        return None
    finished = has_model and (
        (out / EXAMPLES).exists()  # the last that training writes; whoever removed it has no less of a run
        or record.get("epoch") == found.train.epochs
        or any(name.startswith("test/") for name in record.get("metrics", {}))
    )
    holds = "a finished run" if finished else "an unfinished run"
    if config_hash(found) != config_hash(config):
        raise _is_taken(out, f"{holds} of another configuration")
    if (chosen_by := record.get("selected_by", metric)) != metric:
        raise _is_taken(out, f"{holds} whose epoch is chosen by {chosen_by}")
    if not finished:
        return None
    # The model carries a copy of what may have been removed.
    if not (out / CONFIG_FILE).is_file():
        save_config(out, found)
    if not (out / METRICS_FILE).is_file():
        write_record(out, record)
    return FinishedRun(record, class_names)


def check_data_of(finished: FinishedRun, data: PreparedData, out: Path) -> None:
    """Raise InputError where the finished run was trained on other data."""
    same = finished.record.get("data_fingerprint", data.fingerprint) == data.fingerprint
    if not same or finished.class_names != data.context.class_names:
        raise run_on_other_data(out)


def run_on_other_data(out: Path) -> InputError:
    """What is told of a run that cannot go on, nor count for one that is finished."""
    return _is_taken(out, "a run on other data: their files have changed since")


def _is_taken(out: Path, holds: str) -> InputError:
    return InputError(f"holds {holds}; choose another folder, or remove this one", field=f"--out {out}")
