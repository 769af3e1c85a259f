"""What a trial holds in memory, as far as its sweep file and its data tell before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hvqray.config.model_sections import COARSE_SOURCES, HvqConfig, SquadConfig
from hvqray.config.sweep_file import SweepFile
from hvqray.models.build import map_bytes
from hvqray.models.context import ModelContext
from hvqray.training.run_memory import slot_bytes

WORKER_BYTES = 2**30
"""Of a worker beside its Gaussians, without the mapped files that processes share: the libraries' own, weights, and a step of the
shipped search spaces (0.75 GB on a CPU without Ray, the same on any number of classes). Larger models take more, which is not told."""


def largest_map_bytes(sweep: SweepFile, contexts: Sequence[ModelContext]) -> int:
    """Bytes of the Gaussians of the largest map that the sweep's parameters allow, as if all of their values went together.

    Each trial's model holds them once, from its start to its end. `contexts` are those of all data that trials can have.
    """
    model = SquadConfig if sweep.model.get("name") == "squad" else HvqConfig

    def values(field: str) -> list[Any]:
        fixed = sweep.model.get(field, model.model_fields[field].default)
        return _searched(sweep, f"model.{field}") or [fixed]

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


def _searched(sweep: SweepFile, name: str) -> list[Any]:
    """Values of a parameter that stand for all; none where it is not searched."""
    return sweep.parameters[name].domain().samples() if name in sweep.parameters else []


def gpu_warning(map_bytes: int, total_bytes: int, gpus: float) -> str | None:
    """What to say where a worker's Gaussians alone exceed its part of a GPU with `total_bytes`; `gpus` is how many it has."""
    slot = slot_bytes(total_bytes, gpus) if gpus < 1 else total_bytes
    if map_bytes <= slot:
        return None
    return (
        f"resources.gpus_per_worker: the matrices of local_mahalanobis alone take {map_bytes / 1e9:.1f} GB of the"
        f" {slot / 1e9:.1f} GB that a worker has of a GPU; raise it, or take fewer data.classes or map_distance mahalanobis"
    )
