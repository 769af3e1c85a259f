"""A trial as Ray Tune sees it: one `step` is one epoch of the Ray-free training loop."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hvqray.quick_imports import collection_paused

# The first that a trial's process imports, and most of the time that it takes to start.
with collection_paused():
    import torch
    from pydantic import ValidationError
    from ray import tune

    from hvqray.config.faults import first_fault
    from hvqray.config.sections import RunConfig
    from hvqray.data.prepare import LastPrepared
    from hvqray.errors import InputError
    from hvqray.full_disk import refused_by_disk
    from hvqray.training import loop
    from hvqray.training.communicator import SingleProcess
    from hvqray.training.epoch_report import EpochReport
    from hvqray.training.failures import needs_new_process
    from hvqray.training.run_memory import bound_slot
    from hvqray.training.selection import Selection

Reports = Generator[EpochReport, None, None]

REPORT_KEY = "report"
"""Key of an `EpochReport`, as JSON, in Tune's results."""
WORTH_KEY = "worth"
"""Key of what the trial is worth so far, by which schedulers judge it, in the results of epochs at which its metric was measured."""
ERROR_KEY = "trial_error"
"""Key of the line that says why training failed."""
FULL_DISK_KEY = "full_disk"
"""Key of the error number and the file, as JSON, where a disk took no more, for which no configuration is to blame."""


@dataclass(frozen=True)
class TrialSpec:
    """What a trial actor is told. Travels as one JSON string, since Tune merges, flattens and prints what is nested."""

    trial_id: str
    run: dict[str, Any]
    """The RunConfig, dumped."""
    folder: str
    metric: str
    maximize: bool
    objectives: list[str]
    """Metrics that the search looks at."""
    cache_dir: str | None
    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    train_storage: str
    memory_per_worker: int = 0
    """As in `TrialResources`; in force where there are several workers."""

    def to_config(self) -> dict[str, str]:
        """The trial's config, as Tune sees it."""
        return {"spec": json.dumps(asdict(self))}

    @classmethod
    def from_config(cls, config: dict[str, str]) -> TrialSpec:
        """What `to_config` made a config of."""
        return cls(**json.loads(config["spec"]))


class HvqrayTrial(tune.Trainable):
    """Runs trials one after the other in one process, which keeps its imports, its threads and its mapped data.

    With several workers the process only minds a Ray Train worker group, which lives on from trial to trial too.
    An ordinary exception in training fails the trial and nothing else: it would come again, so it is not retried, and
    the process goes on to the next trial. A lost process is retried by Tune, from the trial's checkpoint. Where a disk takes no
    more the trial is to go on another time.
    """

    _reports: Reports | None

    def setup(self, config: dict[str, Any]) -> None:
        quieten_worker()
        self._group: Any = None
        self._data = LastPrepared()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._stop_run()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        try:
            if self._reports is None:
                self._reports = self._start_run()
            report = next(self._reports)
        except Exception as error:
            if needs_new_process(error):
                raise
            self._stop_run()
            if (refused := refused_by_disk(error)) is not None:
                return {"done": True, FULL_DISK_KEY: json.dumps(refused)}
            return {"done": True, ERROR_KEY: _one_line(error)}
        result: dict[str, Any] = {
            "epoch": report.epoch,
            REPORT_KEY: json.dumps(asdict(report)),
            "done": report.is_last,
        }
        for name in self._spec.objectives:
            value = report.metrics.get(name)
            if value is not None:
                result[name] = value
        if self._spec.metric in result and report.selected.get(self._spec.metric) is not None:
            result[WORTH_KEY] = report.selected[self._spec.metric]
        return result

    def cleanup(self) -> None:
        self._stop_run()
        if self._group is not None:
            self._group.close()
            self._group = None

    def _begin(self, config: dict[str, Any]) -> None:
        self._spec = TrialSpec.from_config(config)
        self._reports = None

    def _stop_run(self) -> None:
        if self._reports is not None:
            self._reports.close()
        self._reports = None

    def _start_run(self) -> Reports:
        spec = self._spec
        try:
            run = RunConfig.model_validate(spec.run)
        except ValidationError as error:  # parameters that do not go together, which no check foresaw
            field, message = first_fault(error, RunConfig)
            raise InputError(message, field=field) from None
        return self._start_group_run(run) if spec.workers > 1 else self._start_local_run(run)

    def _start_local_run(self, run: RunConfig) -> Reports:
        spec = self._spec
        torch.set_num_threads(max(1, int(spec.cpus_per_worker)))
        device = "cuda" if spec.gpus_per_worker else "cpu"
        bound_slot(torch.device(device), spec.gpus_per_worker)
        data = self._data.prepare(run.data, cache_dir=_path(spec.cache_dir), device=device)
        return loop.run(
            run,
            data,
            folder=Path(spec.folder),
            communicator=SingleProcess(device),
            selection=Selection(spec.metric, spec.maximize),
            trial_id=spec.trial_id,
            start_over=True,
        )

    def _start_group_run(self, run: RunConfig) -> Reports:
        from hvqray.training.ray_train import Job, WorkerGroup

        spec = self._spec
        if self._group is None or not self._group.is_alive:
            self._group = WorkerGroup(
                workers=spec.workers,
                cpus=spec.cpus_per_worker,
                gpus=spec.gpus_per_worker,
                memory=spec.memory_per_worker,
                storage=Path(spec.train_storage),
            )
        selection = Selection(spec.metric, spec.maximize)
        return self._group.run(Job(run, Path(spec.folder), selection, spec.trial_id, _path(spec.cache_dir)))


def report_of(result: dict[str, Any] | None) -> EpochReport | None:
    """The epoch report in one of Tune's results, or None where it holds none."""
    text = (result or {}).get(REPORT_KEY)
    return EpochReport(**json.loads(text)) if text else None


def quieten_worker() -> None:
    """Keep libraries from printing what no user can act on."""
    import warnings

    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TQDM_DISABLE", "1")


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _one_line(error: BaseException) -> str:
    message = " ".join(str(error).split())
    return (message if isinstance(error, InputError) else f"{type(error).__name__}: {message}")[:500]
