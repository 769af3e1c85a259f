"""What has happened in a sweep so far, built up from the records of its journal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hvqray.errors import InputError
from hvqray.results.events import TrialEnd, TrialStart, TrialState
from hvqray.results.journal import numbered_records
from hvqray.training.epoch_report import EpochReport

Metrics = dict[str, float | None]
Epochs = dict[int, Metrics]


@dataclass(frozen=True)
class DataRecord:
    """What data a sweep is on, as far as two starts of it must agree."""

    classes: list[str]
    """In the order of the models' class indices."""
    num_images: dict[str, int]
    """`train`, `val` and `test`."""
    splits: str
    """Digest of which image is in which split, by paths within the dataset: it may lie elsewhere."""
    fingerprint: str
    """`PreparedData.fingerprint`: what the files hold, and all that turns them into features."""


@dataclass(frozen=True)
class SweepInfo:
    """Which sweep this is, and how it was (last) started."""

    uid: str
    """Eight hex digits drawn when the sweep began; stable over resumes."""
    started: str
    """UTC, ISO 8601: when the sweep was first started."""
    command: str
    """The command of the latest start."""
    environment: dict[str, str]
    """Code version, hardware and library versions of the driver at the latest start."""
    data: DataRecord | None = None
    """Of the first start that recorded them; None where no version that does has started it."""


@dataclass(frozen=True)
class TrialRecord:
    """A trial that has ended: a row of `trials.parquet`."""

    trial_id: str
    number: int
    state: TrialState
    params: dict[str, Any]
    metrics: Metrics
    """Flat names; null where undefined."""
    epochs: int
    duration_s: float
    config_hash: str
    seed: int
    error: str | None
    code_version: str


@dataclass
class History:
    """Everything that a sweep's listeners have heard; later words about the same trial or epoch replace earlier ones."""

    info: SweepInfo | None = None
    starts: dict[str, TrialStart] = field(default_factory=dict)
    ends: dict[str, TrialEnd] = field(default_factory=dict)
    epochs: dict[str, Epochs] = field(default_factory=dict)
    code_versions: dict[str, str] = field(default_factory=dict)

    def apply(self, record: dict[str, Any]) -> None:
        """Take in one record of the journal."""
        body = {key: value for key, value in record.items() if key != "event"}
        match record["event"]:
            case "opened":
                info = info_of(body)
                if self.info:
                    info = dataclasses.replace(
                        info, started=self.info.started, data=self.info.data or info.data
                    )
                self.info = info
            case "start":
                self.code_versions[body["trial_id"]] = body.pop("code_version")
                self.starts[body["trial_id"]] = TrialStart(**body)
            case "epoch":
                self.epochs.setdefault(body["trial_id"], {})[body["epoch"]] = body["metrics"]
            case "end":
                self.ends[body["trial_id"]] = TrialEnd(**body)

    def trials(self) -> list[TrialRecord]:
        """The trials that have ended, by number."""
        records = [self._trial(end) for end in self.ends.values()]
        return sorted(records, key=lambda trial: trial.number)

    def unfinished(self) -> list[TrialStart]:
        """The trials that were started and have not ended, by number."""
        starts = [start for trial_id, start in self.starts.items() if trial_id not in self.ends]
        return sorted(starts, key=lambda start: start.number)

    def _trial(self, end: TrialEnd) -> TrialRecord:
        start = self.starts[end.trial_id]
        return TrialRecord(
            trial_id=end.trial_id,
            number=start.number,
            state=end.state,
            params=start.params,
            metrics=end.metrics,
            epochs=end.epochs,
            duration_s=end.duration_s,
            config_hash=start.config_hash,
            seed=start.seed,
            error=end.error,
            code_version=self.code_versions[end.trial_id],
        )


def replay(path: Path, *, epochs: bool = True) -> History:
    """What the journal at `path` tells, of `epochs` only if wanted. Raises InputError where a record of it is damaged."""
    history = History()
    apply_records(path, history.apply, but=None if epochs else "epoch")
    return history


def apply_records(path: Path, apply: Callable[[dict[str, Any]], None], *, but: str | None = None) -> None:
    """Have `apply` take in the journal's records, without those of the event `but`. Raises InputError where it cannot."""
    for number, record in numbered_records(path, but=but):
        try:
            apply(record)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"record {number} is damaged ({type(error).__name__}: {error}); restore the file, or start the sweep under a new name",
                source=str(path),
            ) from error


def info_of(content: dict[str, Any]) -> SweepInfo:
    """What `dataclasses.asdict` made a dictionary of, or an older version did."""
    data = content.get("data")
    return SweepInfo(**{**content, "data": DataRecord(**data) if data else None})


def opened_record(info: SweepInfo) -> dict[str, Any]:
    return {"event": "opened", **dataclasses.asdict(info)}


def start_record(event: TrialStart, *, code_version: str) -> dict[str, Any]:
    return {"event": "start", **dataclasses.asdict(event), "code_version": code_version}


def epoch_record(trial_id: str, report: EpochReport) -> dict[str, Any]:
    return {
        "event": "epoch",
        "trial_id": trial_id,
        "epoch": report.epoch,
        "metrics": without_nan(report.metrics),
        "duration_s": report.duration_s,
    }


def end_record(event: TrialEnd) -> dict[str, Any]:
    return {"event": "end", **dataclasses.asdict(event), "metrics": without_nan(event.metrics)}


def without_nan(metrics: Metrics) -> Metrics:
    """NaN as null: an undefined metric has one spelling in every file."""
    return {
        name: None if value is None or math.isnan(value) else float(value) for name, value in metrics.items()
    }
