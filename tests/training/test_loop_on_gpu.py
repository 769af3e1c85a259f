"""Whole runs on a pretended GPU: no tensor left on the host, no waiting within an epoch, checkpoints that every device reads."""

from __future__ import annotations

import json
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_gpu import pretend_gpu
from tiny_data import tiny_data
from torch import Tensor

from hvqray.config.sections import RunConfig
from hvqray.training import communicator, loop, optimisation
from hvqray.training.checkpoint import METRICS_FILE, load_model
from hvqray.training.communicator import SingleProcess
from hvqray.training.epoch_report import EpochReport
from hvqray.training.epoch_trainer import EpochTrainer
from hvqray.training.evaluation import Evaluator

SMALL = {"width": 16, "codebook_size": 8, "score_pool_size": 4}
HVQ = SMALL | {"name": "hvq", "num_heads": 2, "feedforward_width": 32, "fsq_levels": [4, 4]}
SQUAD = SMALL | {"name": "squad", "num_residual_blocks": 1, "image_width": 4, "fsq_levels": [4, 4]}
MODELS: dict[str, dict[str, Any]] = {
    "hvq": HVQ | {"feature_noise": 0.1},
    "hvq-revive": HVQ | {"codebook_init": "normal", "revive_dead_codes": True, "revive_after": 2},
    "hvq-predicted": HVQ | {"router": "predicted", "map_distance": "mahalanobis", "ot_levels": [0, 1]},
    "hvq-fsq-local": HVQ
    | {
        "quantizer": "fsq",
        "router": "none",
        "map_distance": "local_mahalanobis",
        "map_coarse_weight": 0.5,
        "map_norm_weight": [0.0, 0.5],
        "feature_codes": 8,
        "map_code_weight": [0.0, 2.0],
        "score_from": ["fine", "coarse", "codes"],
        "score_top_fraction": [0.0, 0.1],
    },
    "hvq-none": HVQ | {"quantizer": "none"},
    "squad": SQUAD | {"discriminator_start": 0.5, "feature_noise": 0.1},
    "squad-residual-vq": SQUAD | {"hierarchy": "residual", "quantizer": "vq", "discriminator_start": 0.0},
    "squad-local": SQUAD
    | {
        "map_distance": "local_mahalanobis",
        "router": "predicted",
        "score_from": ["coarse", "map"],
        "feature_codes": 8,
        "map_code_weight": 2.0,
    },
    "squad-none": SQUAD | {"quantizer": "none", "image_head": False, "router": "none"},
}


def config(model: dict[str, Any], **train: Any) -> RunConfig:
    fixed = {"epochs": 1, "batch_size": 5, "precision": "fp32"}
    return RunConfig.model_validate({"model": model, "train": fixed | train})


DATA = tiny_data(counts=(4, 3, 3))


def run(run_config: RunConfig, folder: Path, device: str, *, epochs: int = 1) -> list[EpochReport]:
    """The reports of the first `epochs`, after which the run is dropped as a stopped trial is."""
    generator = loop.run(run_config, DATA, folder=folder, communicator=SingleProcess(device))
    found = list(islice(generator, epochs))
    generator.close()
    return found


def metrics_of(checkpoint: Path, device: str) -> dict[str, float | None]:
    """Of `val`, as a command measures them that loads the checkpoint."""
    evaluator = Evaluator(DATA.splits["val"], DATA.context, SingleProcess(device))
    return evaluator.evaluate(load_model(checkpoint, device=device).model, pixel_metrics=True)


@pytest.mark.parametrize("name", MODELS)
def test_an_epoch_waits_once_and_its_model_is_the_same_on_the_cpu(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_epoch: list[str] = []
    train_epoch = EpochTrainer.train
    with pretend_gpu() as gpu:

        def watched(trainer: EpochTrainer, epoch: int) -> dict[str, float | None]:
            before = len(gpu.waits)
            losses = train_epoch(trainer, epoch)
            of_epoch.extend(gpu.waits[before:])
            module = trainer._module
            on_host = [x for x in (*module.parameters(), *module.buffers()) if not x.is_cuda]
            assert not on_host
            return losses

        monkeypatch.setattr(EpochTrainer, "train", watched)
        (report,) = run(config(MODELS[name]), tmp_path, "cuda")
    (wait,) = of_epoch  # the losses' means, when all of its steps are under way
    assert wait.startswith("epoch_trainer.py:")
    assert wait.endswith("aten._to_copy.default")
    assert report.peak_gpu_bytes == 2**20
    on_cpu = metrics_of(tmp_path, "cpu")
    assert on_cpu == pytest.approx({metric: report.selected[metric] for metric in on_cpu}, abs=1e-5)


@pytest.mark.parametrize(("first", "then"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_goes_on_where_there_is_another_device(first: str, then: str, tmp_path: Path) -> None:
    run_config = config(MODELS["squad-residual-vq"], epochs=2)
    with pretend_gpu() if first == "cuda" else nullcontext():
        (before,) = run(run_config, tmp_path, first, epochs=1)
    with pretend_gpu() if then == "cuda" else nullcontext():
        again, last = run(run_config, tmp_path, then, epochs=2)
    assert again.metrics == before.metrics
    assert (last.epoch, last.is_last) == (2, True)
    with pretend_gpu() if then == "cuda" else nullcontext():
        _, stayed = run(run_config, tmp_path / "stayed", then, epochs=2)
    assert last.metrics == pytest.approx(stayed.metrics, abs=1e-3)


@pytest.mark.parametrize("name", ["hvq-predicted", "squad-local"])
def test_whatever_ranks_exchange_lies_on_the_gpu(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NCCL demands, told by the first of two ranks."""
    exchanged: list[torch.dtype] = []

    def exchange(tensor: Tensor, src: int = 0) -> None:
        assert tensor.is_cuda
        assert tensor.is_contiguous()
        exchanged.append(tensor.dtype)

    def gather(values: list[object], value: object) -> None:
        values[:] = [value, value]

    doubles = {"get_rank": lambda: 0, "get_world_size": lambda: 2, "all_gather_object": gather}
    for function, double in (doubles | {"all_reduce": exchange, "broadcast": exchange}).items():
        monkeypatch.setattr(communicator.dist, function, double)
    monkeypatch.setattr(optimisation, "_distributed", lambda module: module)
    with pretend_gpu():
        group = communicator.ProcessGroup("cuda")
        list(loop.run(config(MODELS[name]), DATA, folder=tmp_path, communicator=group))
    assert {torch.float32, torch.int64} <= {*exchanged}
    assert torch.bool not in exchanged  # of which gloo, for ranks that share a GPU, knows nothing
    record = json.loads((tmp_path / METRICS_FILE).read_text())
    assert record["environment"]["hardware"].endswith(" cores; pretended GPU; pretended GPU")
