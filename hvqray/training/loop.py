"""The training loop: one run of one configuration, as a generator of epoch reports. Imports no Ray.

After every epoch the run writes what it needs to go on into its folder, so that a run started again in the same
folder continues after the last finished epoch, with the same batches, masks and noise as an undisturbed one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from hvqray.config.metric_names import is_measured_on_pixels
from hvqray.config.sections import RunConfig
from hvqray.data.dataset import PreparedData, Split
from hvqray.environment import code_version, hardware, library_versions
from hvqray.errors import InputError
from hvqray.metrics import IMAGE_METRICS, PIXEL_METRICS
from hvqray.models.build import build_model
from hvqray.models.interface import AnomalyModel, Batch
from hvqray.training import run_memory, sampling
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
from hvqray.training.evaluation import Evaluator
from hvqray.training.optimisation import ObjectiveTrainer, autocast
from hvqray.training.rule_choice import ChosenBy

REFERENCE_IMAGES_PER_CLASS = 48
"""Normal training images per class from which statistics and first codes are taken."""
BATCH_SIZE_WITHOUT_GRADIENTS = 64
MEASURED_ANEW = "error_map."
"""What every evaluation measures anew, and its ranks exchange; not kept for resuming: a matrix a location would be most of that file."""


@dataclass(frozen=True)
class Selection:
    """By which metric a run's epoch is chosen."""

    metric: str = "val/image_auroc"
    maximize: bool = True

    def is_better(self, value: float | None, than: float | None) -> bool:
        """Whether `value` beats `than`; an undefined value beats nothing, any value beats an undefined one."""
        if value is None:
            return False
        return than is None or (value > than if self.maximize else value < than)


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
        self.steps_per_epoch = sampling.num_batches(num_images, batch_size=train.batch_size)
        torch.manual_seed(train.seed)
        self.model: AnomalyModel = build_model(config.model, data.context, device=str(communicator.device))
        self.model.all_reduce_sum_ = communicator.all_reduce_sum_
        self.trainers: list[ObjectiveTrainer] = []
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
            metrics = self._train_epoch(self.epochs_done)
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

    # -- the steps of an epoch ---------------------------------------------------------------------------------

    def _train_epoch(self, epoch: int) -> dict[str, float | None]:
        train, communicator = self.config.train, self.communicator
        indices = sampling.epoch_indices(
            self.train_split.class_index,
            epoch=epoch,
            seed=train.seed,
            images_per_epoch=train.images_per_epoch,
            class_balance=train.class_balance,
        )
        totals: dict[str, Tensor] = {}
        num_steps: Counter[str] = Counter()
        self._module().train()
        for step, batch_indices in enumerate(sampling.batches(indices, batch_size=train.batch_size)):
            global_step = epoch * self.steps_per_epoch + step
            progress = global_step / (self.steps_per_epoch * train.epochs)
            size = len(batch_indices)
            rows = sampling.rank_rows(size, rank=communicator.rank, world_size=communicator.world_size)
            batch = self._batch(self.train_split, batch_indices[rows])
            share = (rows.stop - rows.start) * communicator.world_size / size
            self.model.random.begin_step(_step_seed(train.seed, global_step), rows=rows, num_rows=size)
            for trainer in self.trainers:
                if not trainer.objective.active(progress):
                    continue
                for name, value in trainer.step(batch, progress=progress, share=share).items():
                    key = (
                        name
                        if len(self.trainers) == 1 or name != "loss"
                        else f"{trainer.objective.name}_loss"
                    )
                    totals[key] = totals.get(key, 0.0) + value.float() * share
                    num_steps[key] += 1
            self.model.after_step()
        return self._mean_losses(totals, num_steps)

    def _mean_losses(
        self, totals: dict[str, Tensor], num_steps: Mapping[str, int]
    ) -> dict[str, float | None]:
        """Means over all ranks and the steps of the epoch that have the loss: an adversary may join in its midst.

        The only time an epoch waits for the device.
        """
        names = sorted(totals)
        sums = [totals[name] / num_steps[name] for name in names]
        # The losses do not see what the last step made of the weights.
        sums.append(get_total_norm([weight.detach() for weight in self._module().parameters()]))
        stacked = torch.stack(sums) / self.communicator.world_size
        *values, weight_norm = self.communicator.all_reduce_sum_(stacked).tolist()
        measured = [*zip(names, values, strict=True), ("weights", weight_norm)]
        if broken := [name for name, value in measured if not np.isfinite(value)]:
            raise FloatingPointError(
                f"training diverged in epoch {self.epochs_done + 1}: {', '.join(broken)} not finite"
            )
        return {f"train/{name}": value for name, value in zip(names, values, strict=True)}

    def _evaluate(self, *, is_last: bool) -> dict[str, float | None]:
        self._share_state()  # else each rank would measure a model of its own, should they ever differ
        self.calibrator.calibrate(self.model)
        wanted = is_measured_on_pixels(self.selection.metric) or self.config.train.pixel_metrics == "always"
        metric = self.selection.metric.rpartition("/")[2]
        return self.evaluator.evaluate(
            self.model,
            pixel_metrics=wanted or is_last,
            choose_by=ChosenBy(
                score_metric=metric if metric in IMAGE_METRICS else "image_auroc",
                map_metric=metric if metric in PIXEL_METRICS else "pixel_aupro",
            ),
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
                self._module(),
                config=self.config,
                context=self.data.context,
                record=self._record(),
                batchnorm=self.data.batchnorm,
            )

    def _record(self) -> dict[str, Any]:
        return {
            "trial_id": self.trial_id,
            "epoch": self.best_epoch,
            "selected_on_test": self.data.selected_on_test,
            "selected_by": self.selection.metric,
            "metrics": self.selected,
            **self._chosen_rules(),
            "data_fingerprint": self.data.fingerprint,
            "environment": {
                "code_version": code_version(),
                "hardware": hardware(),
                "seed": self.config.train.seed,
                **library_versions(),
            },
        }

    def _chosen_rules(self) -> dict[str, Any]:
        """The fields of the configuration that may be lists, as they are applied: class name to value, where each class has its own."""
        names, score = self.data.context.class_names, self.model.image_score
        rule_R = [score.rules[rule] for rule in score.chosen_R.tolist()]
        weights = self.config.model.norm_weights()
        applied: dict[str, list[Any]] = {
            "map_norm_weight": [weights[number] for number in self.model.map_choice.chosen_R.tolist()],
            "score_from": [source for source, _ in rule_R],
            "score_top_fraction": [share for _, share in rule_R],
        }
        has_classes = len(rule_R) == len(names) > 1
        return {
            field: dict(zip(names, values, strict=True)) if has_classes else values[0]
            for field, values in applied.items()
        }

    # -- state --------------------------------------------------------------------------------------------------

    def _start_or_resume(self) -> dict[str, float | None]:
        """Build up the run's state; returns the metrics of the last epoch done (none for a new run)."""
        state = self._load_state()
        found = self.communicator.all_gather_object(None if state is None else state["epochs_done"])
        if (
            len(set(found)) > 1
        ):  # else some would prepare a new run and wait for ranks that go on with an old one
            raise InputError(
                f"the workers find different checkpoints in {self.folder} (epochs {', '.join(map(str, found))}); choose a"
                " folder that every node sees",
                field="--out",
            )
        if self.communicator.rank == 0:
            remove_unfinished_files(self.folder)
            save_config(self.folder, self.config)
        if state is None and self.communicator.rank == 0:
            with autocast(self.config.train, self.communicator.device):
                self.model.prepare(self._reference_batches, seed=self.config.train.seed)
        elif state is not None:
            keys = self._module().load_state_dict(state["model"], strict=False)
            assert not keys.unexpected_keys, keys
            assert all(key.startswith(MEASURED_ANEW) for key in keys.missing_keys), keys
        self._share_state()
        self.trainers = [
            ObjectiveTrainer(objective, self.config.train, self.communicator)
            for objective in self.model.objectives
        ]
        if state is not None:
            for trainer, optimizer_state in zip(self.trainers, state["optimizers"], strict=True):
                trainer.optimizer.load_state_dict(optimizer_state)
            self.epochs_done, self.best_epoch = state["epochs_done"], state["best_epoch"]
            self.selected, self.duration_s = state["selected"], state["duration_s"]
        return state["metrics"] if state is not None else {}

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
                "model": {
                    name: tensor
                    for name, tensor in self._module().state_dict().items()
                    if not name.startswith(MEASURED_ANEW)
                },
                "optimizers": [trainer.optimizer.state_dict() for trainer in self.trainers],
                "epochs_done": self.epochs_done,
                "best_epoch": self.best_epoch,
                "selected": self.selected,
                "duration_s": self.duration_s,
                "metrics": metrics,
            },
        )

    def _save_examples(self, *, measured: bool = True) -> None:
        """Example maps of the weights that count; the run has ended, so the model may be overwritten.

        `measured` says whether the model has what `calibrate` measured of its present weights.
        """
        if self.communicator.rank != 0:
            return
        if self.best_epoch != self.epochs_done or not measured:
            restore_weights(self.folder, self._module())
        with autocast(self.config.train, self.communicator.device):
            save_examples(
                self.model,
                self.data.splits["val"],
                self.data.context,
                self.folder / EXAMPLES,
                scores_n=self.selected_scores_n,
            )

    def _share_state(self) -> None:
        """Give every rank rank 0's parameters and buffers, but for what is measured before each evaluation."""
        if self.communicator.world_size > 1:
            for name, tensor in self._module().state_dict().items():
                if not name.startswith(MEASURED_ANEW):
                    self.communicator.broadcast_(tensor)

    def _module(self) -> torch.nn.Module:
        assert isinstance(self.model, torch.nn.Module)
        return self.model

    def _batch(self, split: Split, indices: np.ndarray) -> Batch:
        return make_batch(split, indices, device=self.communicator.device, images=self.model.needs_images)

    def _reference_batches(self) -> Iterator[Batch]:
        """Training images class by class, no batch of more than one."""
        for positions in spread_over_classes(self.train_split, REFERENCE_IMAGES_PER_CLASS):
            for start in range(0, len(positions), BATCH_SIZE_WITHOUT_GRADIENTS):
                yield self._batch(self.train_split, positions[start : start + BATCH_SIZE_WITHOUT_GRADIENTS])


def _step_seed(seed: int, step: int) -> int:
    """A seed for the draws of one step; steps of different seeds never coincide by counting on."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)
