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
from hvqray.results.shared_checkpoint import copy_to_share, without_paths
from hvqray.results.side_thread import SideThread
from hvqray.results.sweep_folder import BestResult, read_best
from hvqray.training.epoch_report import EpochReport

_QUEUE_SIZE = 10_000
_INIT_TIMEOUT_S = 30.0
_FINISH_TIMEOUT_S = 60.0
_TEARDOWN_S = 1.0
_MAX_EXAMPLES = 16
_DATA_DIR_OF_USER = os.environ.get("WANDB_DATA_DIR")


class WandbSink:
    """The listener that mirrors a sweep to W&B; the runs' files lie in `folder`/wandb.

    `sweep_uid` (of `SweepStore.info`) makes run ids stable, so that a resumed trial goes on in its run. `tell` takes
    the one line about a fault. The run of the best trial so far stays open until it is beaten, so that the best model
    can be filed in it; retraining runs, tagged `confirm`, stay open until they are measured. What leaves this machine:
    parameters, the configuration (with names in place of paths), metrics, anomaly maps and the best model; neither host,
    user, command, code nor hardware.
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
        self._mode = mode
        self._sweep_name = sweep_name
        self._sweep_uid = sweep_uid
        self._objective, self._goal = next(iter(goals.items()))
        self._project = project
        self._entity = entity
        self._close_timeout_s = close_timeout_s
        self._runs: dict[str, Any] = {}
        self._confirming: set[str] = set()
        self._best: tuple[str, float | None] | None = None
        # An offline run names the files of its artifacts where they were staged: there they must stay for `wandb sync`.
        # W&B reads this anew for every artifact, and a process may have one sink after another, each with a folder of its own.
        if _DATA_DIR_OF_USER is None:
            os.environ["WANDB_DATA_DIR"] = str(self._folder / "wandb")
        # W&B's reports on itself hold tracebacks, with paths, and wait at the exit for a server that does not answer.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._thread = SideThread("W&B", tell=tell, queue_size=_QUEUE_SIZE)
        self._thread.put(lambda: wandb.setup(wandb.Settings(silent=True)))

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
        self._finish_within(self._close_timeout_s)

    def abandon(self, *, timeout_s: float) -> None:
        """Finish all runs of a sweep that was interrupted; what W&B has not taken within `timeout_s` it need not take."""
        if not self._finish_within(timeout_s):
            # It puts W&B's own hook off, which would hold the process at its exit; as a daemon it is left to itself there.
            teardown = threading.Thread(target=wandb.teardown, name="wandb-teardown", daemon=True)
            teardown.start()
            teardown.join(_TEARDOWN_S)

    def _finish_within(self, timeout_s: float) -> bool:
        self._thread.put(self._finish_all)
        return self._thread.finish(timeout_s)

    def _start(self, event: TrialStart) -> None:
        if event.confirms:
            self._confirming.add(event.trial_id)
        try:
            self._runs[event.trial_id] = self._open_run(
                event.trial_id,
                run_config(event),
                ["confirm", event.confirms] if event.confirms else ["search"],
            )
        except Exception:
            # No server, no project or no right to it: the next trial would wait as long for the same answer.
            self._thread.give_up()
            raise

    def _open_run(
        self, trial_id: str, config: dict[str, Any] | None = None, tags: list[str] | None = None
    ) -> Any:
        run = wandb.init(
            project=self._project,
            entity=self._entity,
            dir=self._folder,
            id=f"{self._sweep_uid}-{trial_id}",
            name=trial_id,
            group=self._sweep_name,
            config=config,
            tags=tags,
            resume="allow",
            reinit="create_new",
            mode=self._mode,
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=_INIT_TIMEOUT_S,
                finish_timeout=_FINISH_TIMEOUT_S,
                disable_git=True,
                disable_code=True,
                save_code=False,
                disable_job_creation=True,
                host="",
                program="",
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")
        return run

    def _log_epoch(self, trial_id: str, report: EpochReport) -> None:
        if run := self._runs.get(trial_id):
            run.log({**_defined(report.metrics), "epoch": report.epoch, "duration_s": report.duration_s})

    def _end(self, event: TrialEnd) -> None:
        run = self._runs.get(event.trial_id)
        if run is None:
            return
        pictures = _example_maps(Path(event.folder)) if event.folder else []
        results = _per_class_table(event.metrics, "val")
        log = {"examples": pictures} if pictures else {}
        run.log({**log, "per_class": results} if results else log)
        run.summary.update({**_defined(event.metrics), "state": event.state, "epochs": event.epochs})
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
        run = self._runs.get(best.run_id)
        if run is None:
            run = self._runs[best.run_id] = self._open_run(best.run_id)
        # Before the model, which is large: whatever befalls that, these have been told.
        results = _per_class_table(best.metrics, "test")
        if results:
            run.log({"per_class_test": results})
        run.summary.update({**_defined(best.metrics), "selected_on_test": best.selected_on_test})
        artifact = wandb.Artifact(
            f"{_artifact_name(self._sweep_name)}-best", type="model", metadata=_artifact_metadata(best)
        )
        copies = self._folder / "wandb"
        copies.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=copies) as aside:
            for path in copy_to_share(folder, Path(aside)):
                artifact.add_file(str(path))  # a copy of its own, which is there for as long as it is needed
        run.log_artifact(artifact, aliases=["best"])

    def _file_confirmed(self, confirmed: Sequence[ConfirmedConfiguration]) -> None:
        for each in confirmed:
            for index, run_id in enumerate(each.run_ids):
                if run := self._runs.get(run_id):
                    run.summary.update(
                        _defined({name: spread.values[index] for name, spread in each.metrics.items()})
                    )

    def _finish(self, trial_id: str, *, failed: bool) -> None:
        run = self._runs.pop(trial_id, None)
        if run is not None:
            run.finish(exit_code=int(failed))

    def _finish_all(self) -> None:
        for trial_id in list(self._runs):
            self._finish(trial_id, failed=False)


def run_config(event: TrialStart) -> dict[str, Any]:
    """What a run's page shows as its configuration."""
    validation = (event.config.get("data") or {}).get("validation") or {}
    facts = {
        "params": event.params,
        "seed": event.seed,
        "selected_on_test": validation.get("from") == "none",
    }
    return without_paths({**event.config, **facts})


def _defined(metrics: Metrics) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}


def _per_class_table(metrics: Metrics, split: str) -> wandb.Table | None:
    results = class_table(metrics, split)
    if results is None:
        return None
    return wandb.Table(columns=["class", *ALL_LABELS], data=rows_with_mad(metrics, results))


def _example_maps(folder: Path) -> list[wandb.Image]:
    """`maps/CLASS_NNN_{image,mask,map}.png`, three pictures an example."""
    stems = sorted(path.name.removesuffix("_map.png") for path in (folder / "maps").glob("*_map.png"))
    return [
        wandb.Image(str(path), caption=f"{stem} {kind}")
        for stem in stems[:_MAX_EXAMPLES]
        for kind in ("image", "mask", "map")
        if (path := folder / "maps" / f"{stem}_{kind}.png").exists()
    ]


def _artifact_metadata(best: BestResult) -> dict[str, Any]:
    """With the means only: W&B takes at most 100 keys. The classes' metrics are in the artifact's metrics.json."""
    means = {name: value for name, value in best.metrics.items() if name.count("/") == 1 and "." not in name}
    return {
        "trial_id": best.trial_id,
        "run_id": best.run_id,
        "selected_on_test": best.selected_on_test,
        **means,
    }


def _artifact_name(name: str) -> str:
    """W&B allows letters, digits, `-`, `_` and `.` in an artifact's name."""
    return "".join(character if character.isalnum() or character in "-_." else "-" for character in name)
