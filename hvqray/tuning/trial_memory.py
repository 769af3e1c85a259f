"""What a trial holds in memory, as far as its sweep file and its data tell before it runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hvqray.config.conditions import applies, contexts, controlling
from hvqray.config.model_sections import COARSE_SOURCES, HvqConfig, SquadConfig
from hvqray.config.section import Section
from hvqray.config.sections import TrainConfig
from hvqray.config.sweep_file import SweepFile
from hvqray.models.attention import MOST_UNFUSED_WEIGHTS
from hvqray.models.build import map_bytes
from hvqray.models.context import ModelContext
from hvqray.training.run_memory import slot_bytes

WORKER_BYTES = 2**30
"""Of a worker beside its Gaussians, without the mapped files that processes share: the libraries' own, weights, and a step of a model
without attention (0.9 GB on a CPU without Ray, 1.2 on 28 x 28 locations)."""
_LIBRARY_BYTES = 600 * 2**20
_ATTENTION_COPIES = 5
"""Arrays as large as its weights that an attention with dropout holds in a step: 4.7 to 5.4 in steps on 14 x 14 to 28 x 28 locations."""
_SPELT_OUT_COPIES = 0.5
"""Likewise of one without, on few locations: its weights in bfloat16, of heads for which the fused kernel is not the fastest. (In float32, and
of narrower heads, there are none.)"""
_PER_WIDTH, _PER_HIDDEN = 57, 18
"""Numbers that a location holds in a step, for each layer of encoder and decoder and each unit of their widths; likewise measured."""


def largest_worker_bytes(sweep: SweepFile, contexts: Sequence[ModelContext], *, on_gpu: bool) -> int:
    """Bytes of a worker that trains the largest model of the sweep's parameters, as if all of their values went together.

    `on_gpu`: it computes on a GPU, so that a step takes no memory of the node. `contexts` are those of all data that trials can have.
    """
    step = 0 if on_gpu else _largest_step_bytes(sweep, contexts)
    return max(WORKER_BYTES, _LIBRARY_BYTES + step) + largest_map_bytes(sweep, contexts)


def _largest_step_bytes(sweep: SweepFile, contexts: Sequence[ModelContext]) -> int:
    """What a step of HVQ-Trans holds; 0 where there is none. An attention's weights grow with the square of the number of locations."""
    if "hvq" not in _values(sweep, "model.name", HvqConfig):
        return 0

    def largest(field: str) -> Any:
        return max(_values(sweep, f"model.{field}", HvqConfig, model="hvq"))

    batch = max(_values(sweep, "train.batch_size", TrainConfig, model="hvq"))
    images = math.ceil(batch / sweep.resources.workers)
    state = largest("width") * _PER_WIDTH + largest("feedforward_width") * _PER_HIDDEN

    def numbers(locations: int) -> float:
        spelt_out = _SPELT_OUT_COPIES if locations**2 <= MOST_UNFUSED_WEIGHTS else 0
        copies = _ATTENTION_COPIES if largest("dropout") > 0 else spelt_out
        # An attention in each of the encoder's layers, two in each of the decoder's.
        return 3 * copies * largest("num_heads") * locations**2 + locations * state

    # Not always that of the largest grid: without dropout its attentions may hold no weights.
    of_layer = max(numbers(math.prod(context.grid_size)) for context in contexts)
    return int(4 * images * largest("hierarchy_depth") * of_layer)


def largest_map_bytes(sweep: SweepFile, contexts: Sequence[ModelContext]) -> int:
    """Bytes of the Gaussians of the largest map that the sweep's parameters allow, as if all of their values went together.

    Each trial's model holds them once, from its start to its end. `contexts` are those of all data that trials can have.
    """
    model = SquadConfig if sweep.model.get("name") == "squad" else HvqConfig

    def values(field: str) -> list[Any]:
        return _values(sweep, f"model.{field}", model)

    if "local_mahalanobis" not in values("map_distance"):
        return 0
    has_one_route = values("router") == ["none"] and "model.name" not in sweep.parameters
    in_map = max(values("map_coarse_weight")) > 0 and any("all" in given for given in values("map_from"))
    has_coarse = in_map or any(
        not COARSE_SOURCES.isdisjoint(given if isinstance(given, list) else [given])
        for given in values("score_from")
    )
    return max(
        map_bytes(
            context,
            num_routes=1 if has_one_route else len(context.class_names),
            num_distances=2 if has_coarse else 1,
        )
        for context in contexts
    )


def _values(sweep: SweepFile, name: str, config: type[Section], *, model: str | None = None) -> list[Any]:
    """Values of a field that stand for all that it can have: of the parameter it is, else, and where its `when` does not hold, the fixed
    one or the default in `config`. With the name of a `model`, of that model's trials alone."""
    section, field = name.split(".")
    own = getattr(sweep, section).get(field, config.model_fields[field].default)
    parameter = sweep.parameters.get(name)
    if parameter is None:
        return [own]
    applied = {
        applies(parameter, chosen)
        for chosen in contexts(sweep.parameters, controlling(sweep.parameters))
        if model is None or chosen.get("model.name", model) == model
    }
    searched = parameter.domain().samples() if True in applied else []
    return [*searched, own] if False in applied else searched


def gpu_warning(map_bytes: int, total_bytes: int, gpus: float) -> str | None:
    """What to say where a worker's Gaussians alone exceed its part of a GPU with `total_bytes`; `gpus` is how many it has."""
    slot = slot_bytes(total_bytes, gpus) if gpus < 1 else total_bytes
    if map_bytes <= slot:
        return None
    return (
        f"resources.gpus_per_worker: the matrices of local_mahalanobis alone take {map_bytes / 1e9:.1f} GB of the"
        f" {slot / 1e9:.1f} GB that a worker has of a GPU; raise it, or take fewer data.classes or map_distance mahalanobis"
    )
