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
from hvqray.models.build import build_model
from hvqray.models.context import ModelContext
from hvqray.tuning.trial_memory import gpu_warning, largest_map_bytes

CONTEXT = ModelContext(("bolt", "cable", "cookie"), 24, (4, 4), 64)
LOCAL = {"map_distance": "local_mahalanobis"}
SEARCHED: dict[str, Any] = {
    "model.map_distance": {"values": ["l2", "local_mahalanobis"]},
    "model.map_coarse_weight": {"min": 0.0, "max": 0.5},
    "model.router": {"values": ["none", "predicted"]},
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
