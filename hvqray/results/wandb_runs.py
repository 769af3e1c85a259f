"""The runs of a sweep that are open at W&B: each has every epoch once, however often it was cut off and gone on with."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import wandb

from hvqray.results.events import TrialStart
from hvqray.results.history import Metrics
from hvqray.results.wandb_content import defined, run_config, run_tags
from hvqray.results.wandb_earlier import EarlierRun, FiledRuns, offline_folders

_INIT_TIMEOUT_S = 30.0
_FINISH_TIMEOUT_S = 60.0
_DATA_DIR_OF_USER = os.environ.get("WANDB_DATA_DIR")


class OpenRuns:
    """Opens, writes and finishes runs, whose files lie in `folder`/wandb; not to be used by several threads.

    Online a run that was cut off goes on at the server. Offline it is written anew from the sweep's journals, in a file that takes the place
    of the earlier ones: `wandb sync` uploads every file of a run, and with them epochs that are in two of them twice.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mode: Literal["online", "offline"],
        sweep_name: str,
        sweep_uid: str,
        project: str,
        entity: str | None,
    ) -> None:
        self._folder = folder
        self._mode = mode
        self._sweep_name = sweep_name
        self._sweep_uid = sweep_uid
        self._project = project
        self._entity = entity
        self._runs: dict[str, Any] = {}
        self._epochs_told: dict[str, int] = {}
        self.filed = FiledRuns(folder, mode)
        # W&B reads this anew for every artifact, and a process may have one sweep after another, each with a folder of its own.
        if _DATA_DIR_OF_USER is None:
            os.environ["WANDB_DATA_DIR"] = str(self._data_folder())

    def get(self, run_id: str) -> Any | None:
        """W&B's run, where it is open."""
        return self._runs.get(run_id)

    def open(self, start: TrialStart, earlier: EarlierRun | None) -> Any:
        """Open the run, anew or again, and tell it the `earlier` epochs that W&B does not have; raises what W&B raises."""
        run_id, offline = start.trial_id, self._mode == "offline"
        wandb_id = f"{self._sweep_uid}-{run_id}"
        before = offline_folders(self._folder / "wandb", wandb_id) if offline else []
        self.filed.open(run_id)
        run = self._runs[run_id] = self._init(start, wandb_id)
        # `epochs` too: for an instant, while its results are filed, `epoch` is that of the best one.
        told = [] if offline else [run.summary.get(name) or 0 for name in ("epoch", "epochs")]
        self._epochs_told[run_id] = max(told, default=0)
        for epoch, (metrics, duration_s) in sorted(earlier.epochs.items()) if earlier else ():
            self.log_epoch(run_id, epoch, metrics, duration_s)
        for path in before:
            shutil.rmtree(path, ignore_errors=True)
        return run

    def log_epoch(self, run_id: str, epoch: int, metrics: Metrics, duration_s: float | None) -> None:
        """An epoch's row, where the run is open. One that a resumed trial repeats has been told."""
        if (run := self._runs.get(run_id)) and epoch > self._epochs_told[run_id]:
            run.log(defined({**metrics, "epoch": epoch, "duration_s": duration_s}))
            self._epochs_told[run_id] = epoch

    def log_results(self, run_id: str, results: dict[str, Any], epoch: int | None) -> None:
        """Tables and pictures in a row at the epoch that they are of (None: not known); the summary's `epoch` stays the last one."""
        run, last = self._runs[run_id], self._epochs_told[run_id]
        run.log({**results, "epoch": last if epoch is None else epoch})
        run.summary.update({"epoch": last})

    def finish(self, run_id: str, *, failed: bool, whole: bool, model: str | None = None) -> None:
        """Finish the run; `whole` says that nothing more is to come, and `model` is the digest of the best model that was filed in it."""
        if (run := self._runs.pop(run_id, None)) is not None:
            run.finish(exit_code=int(failed))
            if whole:
                self.filed.finish(run_id, model)

    def finish_all(self, whole: set[str], models: dict[str, str]) -> None:
        """Finish those that are still open, none of which failed; `whole` are those to which nothing more is to come."""
        for run_id in list(self._runs):
            self.finish(run_id, failed=False, whole=run_id in whole, model=models.get(run_id))

    def _data_folder(self) -> Path:
        """Where W&B stages artifacts, whose manifests name that place to the server.

        An offline run's must be there until `wandb sync`: in the sweep's folder. Online it is that folder too, which has room for a model
        where /tmp may have none, but by a name that says nothing of it.
        """
        folder = self._folder / "wandb"
        if self._mode == "offline":
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        alias = Path(tempfile.mkdtemp(prefix="hvqray-")) / "wandb"
        alias.symlink_to(folder)
        # After W&B's own hook, which was put in later and may still upload.
        atexit.register(shutil.rmtree, alias.parent, ignore_errors=True)
        return alias

    def _init(self, start: TrialStart, wandb_id: str) -> Any:
        run = wandb.init(
            project=self._project,
            entity=self._entity,
            dir=self._folder,
            id=wandb_id,
            name=start.trial_id,
            group=self._sweep_name,
            config=run_config(start),
            tags=run_tags(start),
            # An offline run's file has everything: there is nothing at the server for it to go on with.
            resume="allow" if self._mode == "online" else None,
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
