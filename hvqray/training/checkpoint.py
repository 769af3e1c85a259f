"""Checkpoints: a folder that holds a trained model for users, and the state to go on from.

    model.safetensors   weights of the epoch that counts and, with `data.adapt_batchnorm`, the backbone's batch statistics;
                        its header carries configuration, context and metrics, so that the file alone can be loaded
    config.yaml         the run's configuration
    metrics.json        metrics of that epoch, and what they were measured with
    last.pt             state after the last epoch (model, optimisers), to resume from; removed once the end is on record

Nothing here executes code on loading: safetensors, JSON, and `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from hvqray.atomic import flush_to_disk, remove_unfinished, replacing, write_atomically
from hvqray.config.run_config import run_config_dict, run_config_yaml
from hvqray.config.sections import RunConfig
from hvqray.errors import InputError
from hvqray.models.build import build_model
from hvqray.models.context import ModelContext

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.json"
RESUME_FILE = "last.pt"
HEADER_KEY = "hvqray"
_BATCHNORM = "backbone_batchnorm."
"""What the names of the backbone's batch statistics begin with among the tensors; no parameter's name does."""


@dataclass(frozen=True)
class LoadedModel:
    """A model as it was saved, in eval mode."""

    model: Any
    context: ModelContext
    config: RunConfig
    metrics: dict[str, Any]
    """What metrics.json holds: trial_id, epoch, metrics, selected_on_test, environment, ..."""
    batchnorm: dict[str, np.ndarray] | None = None
    """The batch statistics that the backbone was adapted to; None without `data.adapt_batchnorm`, and in older checkpoints."""

    @property
    def selected_on_test(self) -> bool:
        """Whether the test images were `val` when it was chosen."""
        return bool(self.metrics.get("selected_on_test", False))


def trial_folder(sweep_folder: Path, trial_id: str) -> Path:
    """Where a sweep's trial keeps its checkpoint and example maps."""
    return sweep_folder / ".state" / "trials" / trial_id


def is_whole(folder: Path) -> bool:
    """Whether all the files are in `folder` that training leaves."""
    return all((folder / name).is_file() for name in (CONFIG_FILE, METRICS_FILE, MODEL_FILE))


def share_weights(source: Path, target: Path) -> None:
    """Give the folder `target` the weights in `source`, without a copy where the file system has hard links: they are only ever replaced as a whole."""
    try:
        os.link(source / MODEL_FILE, target / MODEL_FILE)
    except OSError:
        shutil.copy(source / MODEL_FILE, target / MODEL_FILE)


def save_config(folder: Path, config: RunConfig) -> None:
    """Write config.yaml, from which the run can be repeated."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / CONFIG_FILE, run_config_yaml(config))


def save_model(
    folder: Path,
    model: nn.Module,
    *,
    config: RunConfig,
    context: ModelContext,
    record: dict[str, Any],
    batchnorm: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write model.safetensors, config.yaml and metrics.json (= `record`) into `folder`, each atomically.

    `batchnorm` are the backbone's batch statistics, `PreparedData.batchnorm`.
    """
    save_config(folder, config)
    of_data = asdict(context)
    del of_data["grid_of_patches"]  # the configuration tells
    content = {"config": run_config_dict(config), "context": of_data, "record": record}
    header = json.dumps(content, allow_nan=False)
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
    tensors |= {f"{_BATCHNORM}{name}": torch.tensor(value) for name, value in (batchnorm or {}).items()}
    with replacing(folder / MODEL_FILE) as path:
        _write_tensors(path, tensors, {HEADER_KEY: header})
        flush_to_disk(path)
    write_record(folder, record)


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file from where the tensors lie: bytes of it in memory would be twice as much again.

    Raises:
        OSError: The system refused, as on a full disk.
    """
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """(Over)write metrics.json."""
    write_atomically(folder / METRICS_FILE, json.dumps(record, indent=2, allow_nan=False) + "\n")


def restore_weights(folder: Path, model: nn.Module) -> None:
    """Give `model` the weights of the epoch that counts, which `save_model` wrote into `folder`."""
    tensors = load_file(folder / MODEL_FILE)
    model.load_state_dict(
        {name: tensor for name, tensor in tensors.items() if not name.startswith(_BATCHNORM)}
    )


def load_model(checkpoint: Path, *, device: str | torch.device = "cpu") -> LoadedModel:
    """Load a checkpoint folder or a model.safetensors file.

    Raises:
        InputError: `checkpoint` is missing, no checkpoint of this project, or of a configuration no longer valid.
    """
    path = checkpoint / MODEL_FILE if checkpoint.is_dir() else checkpoint
    if not path.is_file():
        raise InputError(
            f"no checkpoint there; give a folder with {MODEL_FILE}, such as runs/NAME/best",
            source=str(checkpoint),
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        config = RunConfig.model_validate(header["config"])
        stored = header["context"]
        context = ModelContext(
            **{
                **stored,
                "class_names": tuple(stored["class_names"]),
                "grid_size": tuple(stored["grid_size"]),
            },
            grid_of_patches=config.data.backbone.gives_patches(),
        )
        record = header["record"]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"no checkpoint of this version ({reason}); train it anew", source=str(path)
        ) from error
    names = [name for name in tensors if name.startswith(_BATCHNORM)]
    batchnorm = {name.removeprefix(_BATCHNORM): tensors.pop(name).numpy() for name in names}
    model = build_model(config.model, context, device=str(device))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"weights do not fit their configuration ({reason})", source=str(path)) from error
    record_file = path.parent / METRICS_FILE
    if checkpoint.is_dir() and record_file.is_file():
        record = read_record(record_file)
    return LoadedModel(model.eval(), context, config, record, batchnorm or None)


def read_record(path: Path) -> dict[str, Any]:
    """What a metrics.json holds. Raises InputError where it is damaged."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"is damaged ({error}); {_mend_of_record(path)}", source=str(path)) from None
    return record


def _mend_of_record(path: Path) -> str:
    """What to do about a damaged metrics.json: of a sweep's best model it holds more than the model's own copy."""
    folder = path.parent.absolute()
    if folder.name == "best" and trial_folder(folder.parent, "").is_dir():
        return "repeat the sweep's command with --resume, which lays out best/ anew (the model's own copy has no figures on test)"
    return "remove it, the model carries a copy"


def save_resume_state(folder: Path, state: dict[str, Any]) -> None:
    """Write last.pt atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / RESUME_FILE) as path, path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # what PyTorch makes of a failed write
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


class DamagedStateError(InputError):
    """A last.pt that cannot be read."""


def load_resume_state(folder: Path, *, device: torch.device) -> dict[str, Any] | None:
    """The state that `save_resume_state` wrote, or None where there is none.

    Raises:
        DamagedStateError: The file is damaged, or holds more than tensors and plain values.
    """
    path = folder / RESUME_FILE
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise
    except OSError as error:  # of the file system, and perhaps not the next time
        raise InputError(
            f"cannot be read ({error.strerror or type(error).__name__})", source=str(path)
        ) from None
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise DamagedStateError(
            f"cannot be read as a run's state ({type(error).__name__}); remove it to start the run over",
            source=str(path),
        ) from None


def remove_resume_state(folder: Path) -> None:
    """The run has ended: nothing will go on from here."""
    (folder / RESUME_FILE).unlink(missing_ok=True)
    remove_unfinished_files(folder)


def remove_unfinished_files(folder: Path) -> None:
    """Remove what a run that was killed while it wrote has left in its folder, which no other process writes to."""
    for name in (MODEL_FILE, CONFIG_FILE, METRICS_FILE, RESUME_FILE):
        remove_unfinished(folder / name)
