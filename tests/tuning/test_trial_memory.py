"""What a trial's model holds, told before it is built."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from hvqray.config.model_sections import HvqConfig, SquadConfig
from hvqray.config.sweep_file import SweepFile
from hvqray.errors import InputError
from hvqray.models.batch import Batch
from hvqray.models.build import build_model
from hvqray.models.context import ModelContext
from hvqray.tuning import trial_memory
from hvqray.tuning.trial_memory import WORKER_BYTES, gpu_warning, largest_map_bytes, largest_worker_bytes

CONTEXT = ModelContext(("bolt", "cable", "cookie"), 24, (4, 4), 64)
LOCAL = {"map_distance": "local_mahalanobis"}
SEARCHED: dict[str, Any] = {
    "model.map_distance": {"values": ["l2", "local_mahalanobis"]},
    "model.map_coarse_weight": {"min": 0.0, "max": 0.5},
    "model.router": {"values": ["none", "predicted"]},
}
WITH_ROUTES_BESIDE_VQ: dict[str, Any] = {
    "model.quantizer": {"values": ["vq", "fsq"]},
    "model.router": {"values": ["none"], "when": {"model.quantizer": "vq"}},
}
ONE = 2 * 16 * 24**2


def sweep(model: dict[str, Any], parameters: dict[str, Any] | None = None) -> SweepFile:
    metric = {"name": "val/image_auroc", "goal": "maximize"}
    return SweepFile.model_validate(
        {
            "name": "s",
            "method": "random",
            "metric": metric,
            "run_cap": 1,
            "model": model,
            "parameters": parameters or {"train.lr": {"min": 1e-4, "max": 1e-3}},
        }
    )


@pytest.mark.parametrize(
    ("model", "parameters", "expected"),
    [
        ({}, None, 0),
        ({"map_distance": "mahalanobis"}, None, 0),
        (LOCAL, None, 3 * ONE),
        (LOCAL | {"score_from": "both"}, None, 6 * ONE),
        (LOCAL | {"score_from": "codes", "feature_codes": 2}, None, 6 * ONE),
        (LOCAL | {"router": "none", "map_coarse_weight": 0.1}, None, 2 * ONE),
        ({"name": "squad"} | LOCAL, None, ONE),
        ({"name": "squad", "router": "oracle"} | LOCAL, None, 3 * ONE),
        ({}, SEARCHED, 6 * ONE),
        (LOCAL | {"router": "none", "map_coarse_weight": 0.1, "map_from": "fine"}, None, ONE),
        (LOCAL, {"model.score_from": {"values": ["map", "coarse"]}}, 6 * ONE),
        (LOCAL, {"model.name": {"values": ["squad", "hvq"]}}, 3 * ONE),
        (LOCAL, WITH_ROUTES_BESIDE_VQ, 3 * ONE),
    ],
)
def test_the_largest_map_of_a_sweep(
    model: dict[str, Any], parameters: dict[str, Any] | None, expected: int
) -> None:
    assert largest_map_bytes(sweep(model, parameters), [CONTEXT]) == expected


def test_the_largest_of_several_data() -> None:
    finer = replace(CONTEXT, grid_size=(8, 8))
    wider = replace(CONTEXT, feature_channels=72)
    assert largest_map_bytes(sweep(LOCAL), [CONTEXT, finer]) == 4 * 3 * ONE
    assert largest_map_bytes(sweep(LOCAL), [wider, CONTEXT, finer]) == 9 * 3 * ONE


@pytest.mark.parametrize(
    "config",
    [
        HvqConfig.model_validate(LOCAL | {"width": 16, "score_from": "both"}),
        SquadConfig.model_validate(LOCAL | {"name": "squad", "router": "predicted", "image_head": False}),
    ],
)
def test_it_is_what_a_model_holds(config: HvqConfig | SquadConfig) -> None:
    model = build_model(config, CONTEXT)
    assert isinstance(model, nn.Module)
    halves = [tensor for tensor in model.buffers() if tensor.dtype is torch.float16]
    expected = largest_map_bytes(sweep(config.model_dump()), [CONTEXT])
    assert sum(tensor.nbytes for tensor in halves) == expected


FINE = replace(CONTEXT, grid_size=(28, 28))
LIBRARIES = 600 * 2**20
OF_ATTENTION = 4 * 16 * 5 * 3 * 2 * 8 * 784**2
"""Batch 16, depth 2, 8 heads: of the three attentions of each of two layers five times the weights."""
OF_STATES = 4 * 16 * 784 * 2 * (57 * 128 + 18 * 512)


@pytest.mark.parametrize(
    ("model", "parameters", "workers", "expected"),
    [
        ({"width": 128}, None, 1, LIBRARIES + OF_ATTENTION + OF_STATES),
        ({"width": 128}, None, 2, LIBRARIES + (OF_ATTENTION + OF_STATES) // 2),
        ({"width": 128}, None, 5, LIBRARIES + (OF_ATTENTION + OF_STATES) // 4),
        ({"width": 128, "dropout": 0.0}, None, 1, LIBRARIES + OF_STATES),
        ({"width": 128, "num_heads": 4}, None, 1, LIBRARIES + OF_ATTENTION // 2 + OF_STATES),
        (
            {"width": 128},
            {"model.hierarchy_depth": {"values": [1, 4]}, "train.batch_size": {"values": [4, 8]}},
            1,
            LIBRARIES + OF_ATTENTION + OF_STATES,
        ),
        (
            {"width": 128, "dropout": 0.0},
            {"model.dropout": {"min": 0.0, "max": 0.1}},
            1,
            LIBRARIES + OF_ATTENTION + OF_STATES,
        ),
        (  # where the `when` does not hold, the default does
            {"width": 128},
            {
                "model.quantizer": {"values": ["vq", "fsq"]},
                "model.num_heads": {"values": [4], "when": {"model.quantizer": "vq"}},
            },
            1,
            LIBRARIES + OF_ATTENTION + OF_STATES,
        ),
        (  # the other model has no such field
            {},
            {
                "model.name": {"values": ["squad", "hvq"]},
                "model.num_heads": {"values": [4], "when": {"model.name": "hvq"}},
            },
            1,
            LIBRARIES + OF_ATTENTION // 2 + OF_STATES,
        ),
        ({"name": "squad"}, None, 1, WORKER_BYTES),
        ({}, {"model.name": {"values": ["squad"]}}, 1, WORKER_BYTES),
    ],
)
def test_a_worker_holds_the_largest_step_beside_the_largest_map(
    model: dict[str, Any], parameters: dict[str, Any] | None, workers: int, expected: int
) -> None:
    of = sweep(model, parameters)
    of = of.model_copy(update={"resources": of.resources.model_copy(update={"workers": workers})})
    assert largest_worker_bytes(of, [CONTEXT, FINE], on_gpu=False) == expected
    assert largest_worker_bytes(of, [CONTEXT, FINE], on_gpu=True) == WORKER_BYTES
    assert largest_worker_bytes(of, [CONTEXT], on_gpu=False) == WORKER_BYTES, "a small one is within it"


def test_the_gaussians_are_counted_beside_the_step() -> None:
    without = largest_worker_bytes(sweep({"width": 128}), [FINE], on_gpu=False)
    local = largest_worker_bytes(sweep({"width": 128} | LOCAL), [FINE], on_gpu=False)
    assert local - without == 49 * 3 * ONE


@pytest.mark.parametrize(
    ("dropout", "num_heads", "precision"),
    [(0.1, 8, "fp32"), (0.0, 8, "fp32"), (0.0, 4, "bf16"), (0.0, 8, "bf16")],
)
def test_a_step_holds_what_it_is_reckoned_to_hold(dropout: float, num_heads: int, precision: str) -> None:
    """What autograd keeps for the backward pass is most of it."""
    fields = {
        "width": 128,
        "hierarchy_depth": 1,
        "dropout": dropout,
        "codebook_size": 8,
        "num_heads": num_heads,
    }
    context = replace(CONTEXT, grid_size=(20, 20))
    model = build_model(HvqConfig.model_validate(fields), context)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batch = Batch(torch.randn(2, 24, 20, 20), torch.zeros(2, dtype=torch.int64))
    bf16 = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), bf16:
        (objective,) = model.objectives
        loss = objective.loss(batch, 0.5)["loss"]
    assert loss.requires_grad
    of = sweep(fields, {"train.batch_size": {"values": [2]}})
    reckoned = trial_memory._largest_step_bytes(of, [context])
    assert (0.4 if precision == "fp32" and dropout else 0.35) * reckoned < sum(kept.values()) < reckoned


def test_on_few_locations_weights_count_without_dropout_too() -> None:
    of = sweep({"width": 128, "dropout": 0.0, "num_heads": 4})
    small, large = (replace(CONTEXT, grid_size=(side, side)) for side in (22, 24))
    states, weights = (57 * 128 + 18 * 512), 0.5 * 3 * 4
    of_small = 4 * 16 * 2 * (484 * states + weights * 484**2)
    of_large = 4 * 16 * 2 * 576 * states
    assert trial_memory._largest_step_bytes(of, [small]) == of_small
    assert trial_memory._largest_step_bytes(of, [large]) == of_large
    eight = sweep({"width": 128, "dropout": 0.0})
    of_small = 4 * 16 * 2 * (484 * states + 2 * weights * 484**2)
    assert of_small > of_large, "the smaller grid is to hold more"
    assert trial_memory._largest_step_bytes(eight, [small, large]) == of_small


def test_matrices_that_no_slot_of_a_gpu_holds_are_warned_of() -> None:
    gib = 2**30
    assert gpu_warning(3 * gib, 16 * gib, 1.0) is None
    assert gpu_warning(3 * gib, 16 * gib, 0.5) is None
    told = gpu_warning(3 * gib, 16 * gib, 0.25)
    assert told is not None
    assert told.startswith(
        "resources.gpus_per_worker: the matrices of local_mahalanobis alone take 3.2 GB of the 3.0 GB"
    )
    assert gpu_warning(17 * gib, 16 * gib, 2.0) is not None
    with pytest.raises(InputError, match="leaves nothing"):
        gpu_warning(gib, 4 * gib, 0.25)
