"""The training loop: one run of one configuration, as a generator of epoch reports. Imports no Ray.

After every epoch the run writes what it needs to go on into its folder, so that a run started again in the same
folder continues after the last finished epoch, with the same batches, masks and noise as an undisturbed one.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hvqray.config.sections import RunConfig
from hvqray.data.dataset import PreparedData
from hvqray.environment import gpus_of
from hvqray.errors import InputError
from hvqray.models.batch import Batch
from hvqray.models.build import build_model
from hvqray.models.interface import AnomalyModel
from hvqray.training import run_memory
from hvqray.training.anomaly_images import EXAMPLES, save_examples
from hvqray.training.batches import make_batch
from hvqray.training.calibration import Calibrator, spread_over_classes
from hvqray.training.checkpoint import (
    RESUME_FILE,
    DamagedStateError,
    load_resume_state,
    remove_unfinished_files,
    restore_weights,
    save_config,
    save_model,
    save_resume_state,
)
from hvqray.training.communicator import Communicator
from hvqray.training.epoch_report import EpochReport
from hvqray.training.epoch_trainer import EpochTrainer
from hvqray.training.evaluation import Evaluator
from hvqray.training.finished_run import run_on_other_data
from hvqray.training.lasting_state import lasting_state, load_lasting_state, share_state
from hvqray.training.optimisation import autocast
from hvqray.training.run_record import run_record
from hvqray.training.selection import Selection

REFERENCE_IMAGES_PER_CLASS = 48
"""Normal training images per class from which statistics and first codes are taken."""
BATCH_SIZE_WITHOUT_GRADIENTS = 64


def run(
    config: RunConfig,
    data: PreparedData,
    *,
    folder: Path,
    communicator: Communicator,
    selection: Selection = Selection(),
    trial_id: str | None = None,
    start_over: bool = False,
) -> Generator[EpochReport, None, None]:
    """Train `config` on `data`, yielding a report per epoch, equal on every rank.

    Closing the generator between two reports ends the run; it can be resumed from `folder`. Where the state to resume from is
    damaged, the run starts over if `start_over` says so, and tells it in its first report's `note`.

    Raises:
        InputError: That state is damaged and the run is not to start over, the training split or the batch is smaller than the
            number of workers, or the workers do not see the same `folder`.
    """
    return _Run(config, data, folder, communicator, selection, trial_id, start_over).epochs()


class _Run:
    def __init__(
        self,
        config: RunConfig,
        data: PreparedData,
        folder: Path,
        communicator: Communicator,
        selection: Selection,
        trial_id: str | None,
        start_over: bool,
    ) -> None:
        self.config, self.data, self.folder = config, data, folder
        self.communicator, self.selection, self.trial_id = communicator, selection, trial_id
        self.start_over = start_over
        self.note: str | None = None
        self.train_split = data.splits["train"]
        train = config.train
        num_images = train.images_per_epoch or len(self.train_split)
        if min(num_images, train.batch_size) < communicator.world_size:
            raise InputError(
                f"{min(num_images, train.batch_size)} images a step cannot be shared by {communicator.world_size} workers;"
                " raise it or lower resources.workers",
                field="train.batch_size",
            )
        run_memory.begin_run(communicator.device)
        torch.manual_seed(train.seed)
        self.model: AnomalyModel = build_model(config.model, data.context, device=str(communicator.device))
        self.model.all_reduce_sum_ = communicator.all_reduce_sum_
        assert isinstance(self.model, nn.Module)
        self.module: nn.Module = self.model
        self.trainer: EpochTrainer
        """Made once the ranks agree on the model."""
        self.evaluator = Evaluator(
            data.splits["val"],
            data.context,
            communicator,
            batch_size=BATCH_SIZE_WITHOUT_GRADIENTS,
            precision_context=lambda: autocast(train, communicator.device),
        )
        self.calibrator = Calibrator(
            self.train_split,
            communicator,
            images_per_class=train.calibration_images,
            batch_size=BATCH_SIZE_WITHOUT_GRADIENTS,
            precision_context=lambda: autocast(train, communicator.device),
        )
        self.gpus: list[str] = []
        """Names of those that the ranks train on."""
        self.epochs_done = 0
        self.best_epoch: int | None = None
        self.selected: dict[str, float | None] = {}
        self.selected_scores_n: np.ndarray | None = None
        """Image scores of `val` by the epoch that counts; None where that was before a resume."""
        self.duration_s = 0.0

    def epochs(self) -> Generator[EpochReport, None, None]:
        started = time.monotonic()
        last_metrics = self._start_or_resume()
        earlier_s = self.duration_s
        if self.epochs_done:
            # The epoch is in the checkpoint, but whoever listened may have died before hearing of it: say it again.
            if self.epochs_done == self.config.train.epochs and not (self.folder / EXAMPLES).exists():
                self._save_examples(measured=False)
            yield self._report(last_metrics)
        while self.epochs_done < self.config.train.epochs:
            metrics = self.trainer.train(self.epochs_done)
            self.epochs_done += 1
            is_last = self.epochs_done == self.config.train.epochs
            if is_last or self.epochs_done % self.config.train.evaluate_every == 0:
                metrics |= self._evaluate(is_last=is_last)
                self._select(metrics)
            self.duration_s = earlier_s + time.monotonic() - started
            self._save(metrics)
            if is_last:
                self._save_examples()
            yield self._report(metrics)

    def _report(self, metrics: dict[str, float | None]) -> EpochReport:
        host_bytes, gpu_bytes = run_memory.peaks(self.communicator)
        note, self.note = self.note, None
        return EpochReport(
            epoch=self.epochs_done,
            num_epochs=self.config.train.epochs,
            metrics=metrics,
            duration_s=self.duration_s,
            is_last=self.epochs_done == self.config.train.epochs,
            best_epoch=self.best_epoch,
            selected=self.selected,
            note=note,
            peak_memory_bytes=host_bytes,
            peak_gpu_bytes=gpu_bytes,
            gpu_limit_bytes=run_memory.gpu_limit(self.communicator.device),
        )

    def _evaluate(self, *, is_last: bool) -> dict[str, float | None]:
        # Else each rank would measure a model of its own, should they ever differ.
        share_state(self.module, self.communicator)
        self.calibrator.calibrate(self.model)
        always = self.config.train.pixel_metrics == "always"
        return self.evaluator.evaluate(
            self.model,
            pixel_metrics=always or is_last or self.selection.needs_pixels(),
            choose_by=self.selection.of_rules(),
        )

    def _select(self, metrics: dict[str, float | None]) -> None:
        metric = self.selection.metric
        keep = self.config.train.checkpoint == "last" or self.best_epoch is None
        if not keep and not self.selection.is_better(metrics.get(metric), self.selected.get(metric)):
            return
        self.best_epoch = self.epochs_done
        self.selected_scores_n = self.evaluator.scores_n.copy()
        self.selected = {name: value for name, value in metrics.items() if not name.startswith("train/")}
        if self.communicator.rank == 0:
            save_model(
                self.folder,
                self.module,
                config=self.config,
                context=self.data.context,
                record=run_record(
                    self.config,
                    self.data,
                    self.model,
                    trial_id=self.trial_id,
                    epoch=self.best_epoch,
                    selected_by=metric,
                    metrics=self.selected,
                    gpus=self.gpus,
                ),
                batchnorm=self.data.batchnorm,
            )

    # -- state --------------------------------------------------------------------------------------------------

    def _start_or_resume(self) -> dict[str, float | None]:
        """Build up the run's state; returns the metrics of the last epoch done (none for a new run)."""
        state = self._load_state()
        found = self.communicator.all_gather_object(None if state is None else state["epochs_done"])
        # Else some would prepare a new run and wait for ranks that go on with an old one.
        if len(set(found)) > 1:
            raise InputError(
                f"the workers find different checkpoints in {self.folder} (epochs {', '.join(map(str, found))}); choose a"
                " folder that every node sees",
                field="--out",
            )
        if state is not None and state.get("data", self._data_told()) != self._data_told():
            raise run_on_other_data(self.folder)
        of_ranks = self.communicator.all_gather_object(gpus_of(self.communicator.device))
        self.gpus = [name for names in of_ranks for name in names]
        if self.communicator.rank == 0:
            remove_unfinished_files(self.folder)
            save_config(self.folder, self.config)
        if state is None and self.communicator.rank == 0:
            with autocast(self.config.train, self.communicator.device):
                self.model.prepare(self._reference_batches, seed=self.config.train.seed)
        elif state is not None:
            load_lasting_state(self.module, state["model"])
        share_state(self.module, self.communicator)
        self.trainer = EpochTrainer(self.model, self.train_split, self.config.train, self.communicator)
        if state is not None:
            self.trainer.load_optimizer_states(state["optimizers"])
            self.epochs_done, self.best_epoch = state["epochs_done"], state["best_epoch"]
            self.selected, self.duration_s = state["selected"], state["duration_s"]
        return state["metrics"] if state is not None else {}

    def _data_told(self) -> dict[str, Any]:
        """What a run's data must still be for it to go on; states of earlier versions, and of other codes, do not say."""
        return {"fingerprint": self.data.fingerprint, "class_names": list(self.data.context.class_names)}

    def _load_state(self) -> dict[str, Any] | None:
        try:
            return load_resume_state(self.folder, device=self.communicator.device)
        except DamagedStateError:
            if not self.start_over:
                raise
            self.note = f"starts over: {self.folder / RESUME_FILE} cannot be read as a run's state"
            return None

    def _save(self, metrics: dict[str, float | None]) -> None:
        if self.communicator.rank != 0:
            return
        save_resume_state(
            self.folder,
            {
                "model": lasting_state(self.module),
                "optimizers": self.trainer.optimizer_states(),
                "epochs_done": self.epochs_done,
                "best_epoch": self.best_epoch,
                "selected": self.selected,
                "duration_s": self.duration_s,
                "metrics": metrics,
                "data": self._data_told(),
            },
        )

    def _save_examples(self, *, measured: bool = True) -> None:
        """Example maps of the weights that count; the run has ended, so the model may be overwritten.

        `measured` says whether the model has what `calibrate` measured of its present weights.
        """
        if self.communicator.rank != 0:
            return
        if self.best_epoch != self.epochs_done or not measured:
            restore_weights(self.folder, self.module)
        with autocast(self.config.train, self.communicator.device):
            save_examples(
                self.model,
                self.data.splits["val"],
                self.data.context,
                self.folder / EXAMPLES,
                scores_n=self.selected_scores_n,
            )

    def _reference_batches(self) -> Iterator[Batch]:
        """Training images class by class, no batch of more than one; of large classes another sample with each seed."""
        seed = self.config.train.seed
        for positions in spread_over_classes(self.train_split, REFERENCE_IMAGES_PER_CLASS, seed=seed):
            for start in range(0, len(positions), BATCH_SIZE_WITHOUT_GRADIENTS):
                yield make_batch(
                    self.train_split,
                    positions[start : start + BATCH_SIZE_WITHOUT_GRADIENTS],
                    device=self.communicator.device,
                    images=self.model.needs_images,
                )
