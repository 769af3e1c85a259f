"""Weights & Biases as a listener: one run a trial, all of its work on a side thread.

Nothing that W&B does, or fails to do, reaches a trial. The results on disk are whole without it.
"""

from __future__ import annotations

import functools
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import wandb

from hvqray.results.class_table import ALL_LABELS, class_table, rows_with_mad
from hvqray.results.confirmation import ConfirmedConfiguration
from hvqray.results.events import Goal, TrialEnd, TrialStart
from hvqray.results.history import Metrics
from hvqray.results.ranking import is_better
from hvqray.results.shared_checkpoint import copy_to_share
from hvqray.results.side_thread import SideThread
from hvqray.results.sweep_folder import read_best
from hvqray.results.wandb_content import (
    artifact_metadata,
    artifact_name,
    defined,
    example_stems,
    model_digest,
)
from hvqray.results.wandb_earlier import (
    EarlierRun,
    read_earlier_runs,
    remove_empty_logs,
)
from hvqray.results.wandb_runs import OpenRuns
from hvqray.training.epoch_report import EpochReport

_QUEUE_SIZE = 10_000
_TEARDOWN_S = 1.0


class WandbSink:
    """The listener that mirrors a sweep to W&B; the runs' files lie in `folder`/wandb.

    `sweep_uid` (of `SweepStore.info`) makes run ids stable, so that a resumed trial goes on in its run. `tell` takes
    the one line about a fault. The run of the best trial so far stays open until it is beaten, so that the best model
    can be filed in it; retraining runs stay open until they are measured. Runs that an earlier process left open are told
    anew, from the sweep's journals, as far as W&B does not have them. The caller holds the sweep.

    What leaves this machine: parameters, the configuration (with names in place of paths), metrics, anomaly maps, the best
    model, and the error of a failed trial, which may name files; neither host, user, command, code nor hardware. W&B adds where
    artifacts were staged: online a temporary name, of offline runs the sweep's folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mode: Literal["online", "offline"],
        sweep_name: str,
        sweep_uid: str,
        goals: Mapping[str, Goal],
        project: str,
        entity: str | None,
        tell: Callable[[str], None],
        close_timeout_s: float = 120.0,
    ) -> None:
        self._folder = folder.resolve()
        self._sweep_name = sweep_name
        self._objective, self._goal = next(iter(goals.items()))
        self._close_timeout_s = close_timeout_s
        self._runs = OpenRuns(
            self._folder,
            mode=mode,
            sweep_name=sweep_name,
            sweep_uid=sweep_uid,
            project=project,
            entity=entity,
        )
        self._confirming: set[str] = set()
        self._ended: set[str] = set()
        self._models: dict[str, str] = {}
        self._best: tuple[str, float | None] | None = None
        # Now, since the journals go on from here.
        earlier = read_earlier_runs(self._folder, lambda run_id: not self._runs.filed.is_whole(run_id))
        self._cut_off = {run_id: run for run_id, run in earlier.items() if run.end is None}
        # W&B's reports on itself hold tracebacks, with paths, and wait at the exit for a server that does not answer.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._thread = SideThread("W&B", tell=tell, queue_size=_QUEUE_SIZE)
        self._thread.put(lambda: wandb.setup(wandb.Settings(silent=True)))
        if mode == "offline":
            self._thread.put(functools.partial(remove_empty_logs, self._folder / "wandb"))
        for run_id, run in earlier.items():
            # Of a retraining run that a trial stands for all is told at once, so that a process may have ended before W&B opened it.
            filed, confirms = self._runs.filed, run.start.confirms
            if run.end and (filed.is_open(run_id) or (confirms and filed.knows(confirms))):
                self._thread.put(functools.partial(self._take_up, run, run.end))

    def on_trial_start(self, event: TrialStart) -> None:
        self._thread.put(functools.partial(self._start, event))

    def on_epoch(self, trial_id: str, report: EpochReport) -> None:
        self._thread.put(functools.partial(self._log_epoch, trial_id, report))

    def on_trial_end(self, event: TrialEnd) -> None:
        self._thread.put(functools.partial(self._end, event))

    def log_best(self, folder: Path) -> None:
        """File the best model (`folder` is the sweep's best/) as an artifact of its trial's run, with its results on `test`."""
        self._thread.put(functools.partial(self._file_best, folder))

    def log_confirmed(self, confirmed: Sequence[ConfirmedConfiguration]) -> None:
        """Give the retraining runs of this start their results on `test`."""
        self._thread.put(functools.partial(self._file_confirmed, confirmed))

    def close(self) -> None:
        """Finish all runs; waits `close_timeout_s` at most, and says so if that was not enough."""
        self._finish_within(self._close_timeout_s, interrupted=False)

    def abandon(self, *, timeout_s: float) -> None:
        """Finish all runs of a sweep that was interrupted; what W&B has not taken within `timeout_s` it need not take."""
        if not self._finish_within(timeout_s, interrupted=True):
            # It puts W&B's own hook off, which would hold the process at its exit; as a daemon it is left to itself there.
            teardown = threading.Thread(target=wandb.teardown, name="wandb-teardown", daemon=True)
            teardown.start()
            teardown.join(_TEARDOWN_S)

    def _finish_within(self, timeout_s: float, *, interrupted: bool) -> bool:
        self._thread.put(functools.partial(self._finish_all, interrupted=interrupted))
        return self._thread.finish(timeout_s)

    def _start(self, event: TrialStart) -> None:
        self._open_run(event, self._cut_off.pop(event.trial_id, None))

    def _take_up(self, run: EarlierRun, end: TrialEnd) -> None:
        """Bring a run that has ended, in this process or an earlier one, to where it was before its results on `test` came in."""
        self._tell_again(run)
        self._settle(end)

    def _tell_again(self, run: EarlierRun) -> Any:
        opened = self._open_run(run.start, run)
        if run.end and opened.summary.get("state") != run.end.state:
            self._log_end(opened, run.end)
        return opened

    def _open_run(self, start: TrialStart, earlier: EarlierRun | None) -> Any:
        if start.confirms:
            self._confirming.add(start.trial_id)
        self._ended.discard(start.trial_id)  # a retraining run that failed is tried again
        try:
            return self._runs.open(start, earlier)
        except Exception:
            # No server, no project or no right to it: the next trial would wait as long for the same answer.
            self._thread.give_up()
            raise

    def _log_epoch(self, trial_id: str, report: EpochReport) -> None:
        self._runs.log_epoch(trial_id, report.epoch, report.metrics, report.duration_s)

    def _end(self, event: TrialEnd) -> None:
        if run := self._runs.get(event.trial_id):
            try:
                self._log_end(run, event)
            finally:
                self._settle(event)

    def _log_end(self, run: Any, event: TrialEnd) -> None:
        # First: whatever befalls table and pictures, this has been told.
        facts = {"best_epoch": event.best_epoch, "error": event.error}
        run.summary.update(
            {
                **defined(event.metrics),
                "state": event.state,
                "epochs": event.epochs,
                **{name: value for name, value in facts.items() if value is not None},
            }
        )
        if event.error is None and run.summary.get("error") is not None:
            del run.summary["error"]  # of an attempt before this one
        results: dict[str, Any] = {}
        if table := _per_class_table(event.metrics, "val"):
            results["per_class"] = table
        if pictures := _example_maps(Path(event.folder)) if event.folder else []:
            results["examples"] = pictures
        if results:
            self._runs.log_results(event.trial_id, results, event.best_epoch)

    def _settle(self, event: TrialEnd) -> None:
        """Finish the run of a trial that has ended, unless it may still be told of `test`."""
        self._ended.add(event.trial_id)
        value = event.metrics.get(self._objective)
        if event.trial_id in self._confirming and event.state == "COMPLETE":
            return  # stays open for its results on `test`
        if event.state == "COMPLETE" and (self._best is None or is_better(value, self._best[1], self._goal)):
            if self._best is not None:
                self._finish(self._best[0], failed=False)
            self._best = (event.trial_id, value)
        else:
            self._finish(event.trial_id, failed=event.state == "FAIL")

    def _file_best(self, folder: Path) -> None:
        best = read_best(folder.parent)
        if best is None:
            return
        run_id, model = best.run_id, model_digest(best)
        if self._runs.filed.has_model(run_id, model):
            return
        run = self._runs.get(run_id)
        if run is None:
            run = self._tell_again(read_earlier_runs(self._folder, run_id.__eq__)[run_id])
            self._ended.add(run_id)
        # Before the model, which is large: whatever befalls that, these have been told.
        run.summary.update({**defined(best.metrics), "selected_on_test": best.selected_on_test})
        if table := _per_class_table(best.metrics, "test"):
            self._runs.log_results(run_id, {"per_class_test": table}, best.epoch)
        artifact = wandb.Artifact(
            artifact_name(self._sweep_name), type="model", metadata=artifact_metadata(best)
        )
        copies = self._folder / "wandb"
        copies.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=copies) as aside:
            for path in copy_to_share(folder, Path(aside)):
                # W&B makes a copy of its own, which is there for as long as it is needed; another one in the user's cache, for nothing.
                artifact.add_file(str(path), skip_cache=True)
        run.log_artifact(artifact, aliases=["best"])
        self._models[run_id] = model

    def _file_confirmed(self, confirmed: Sequence[ConfirmedConfiguration]) -> None:
        for each in confirmed:
            for index, run_id in enumerate(each.run_ids):
                if run := self._runs.get(run_id):
                    run.summary.update(
                        defined({name: spread.values[index] for name, spread in each.metrics.items()})
                    )

    def _finish(self, run_id: str, *, failed: bool) -> None:
        self._runs.finish(run_id, failed=failed, whole=run_id in self._ended, model=self._models.get(run_id))

    def _finish_all(self, *, interrupted: bool) -> None:
        # What a run was open for is still to come where the sweep was interrupted.
        self._runs.finish_all(set() if interrupted else self._ended, self._models)


def _per_class_table(metrics: Metrics, split: str) -> wandb.Table | None:
    results = class_table(metrics, split)
    if results is None:
        return None
    return wandb.Table(columns=["class", *ALL_LABELS], data=rows_with_mad(metrics, results))


def _example_maps(folder: Path) -> list[wandb.Image]:
    """`maps/CLASS_NNN_{image,mask,map}.png`, three pictures an example."""
    stems = [path.name.removesuffix("_map.png") for path in (folder / "maps").glob("*_map.png")]
    return [
        wandb.Image(str(path), caption=f"{stem} {kind}")
        for stem in example_stems(stems)
        for kind in ("image", "mask", "map")
        if (path := folder / "maps" / f"{stem}_{kind}.png").exists()
    ]
