"""A small split in memory, and a model whose maps are known: what evaluation is tested with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from hvqray.config.model_sections import ErrorMapFields
from hvqray.data.dataset import Sample, Split
from hvqray.models.batch import Batch
from hvqray.models.context import ModelContext
from hvqray.models.image_score import ImageScore
from hvqray.models.interface import Prediction
from hvqray.models.route_choice import RouteChoice
from hvqray.models.router import Router

T = TypeVar("T")

SIZE = 16
CLASS_NAMES = ("bolt", "cloth", "pill")
CONTEXT = ModelContext(class_names=CLASS_NAMES, feature_channels=3, grid_size=(4, 4), image_size=SIZE)


def make_split(
    class_sizes: tuple[tuple[int, int], ...], *, name: str = "val", unmasked: tuple[int, ...] = ()
) -> Split:
    """`class_sizes` are (normal, anomalous) images per class; the first defect image of a class in `unmasked` lacks its mask.

    Rows lie in the cache in another order than in the split, and belong to classes by turns.
    """
    rng = np.random.default_rng(0)
    order = [(c, bad) for c, sizes in enumerate(class_sizes) for bad in (0, 1) for _ in range(sizes[bad])]
    order = [order[i] for i in rng.permutation(len(order))]
    class_index = np.array([c for c, _ in order], dtype=np.int64)
    is_anomalous = np.array([bool(bad) for _, bad in order])
    num = len(order)
    rows = rng.permutation(num).astype(np.int64)
    masks = np.zeros((num, SIZE, SIZE), dtype=np.uint8)
    masks[rows[is_anomalous], 3:9, 4:12] = 1
    features = rng.normal(size=(num, 3, 4, 4)).astype(np.float16)
    features[rows[is_anomalous], :, 1:2, 1:3] += np.float16(1.5)
    has_mask = np.ones(num, dtype=bool)
    for c in unmasked:
        first = np.flatnonzero((class_index == c) & is_anomalous)[0]
        has_mask[first], masks[rows[first]] = False, 0
    return Split(
        name=name,
        samples=tuple(
            Sample(Path(f"{i}.png"), CLASS_NAMES[c], "test", "cut" if bad else "good")
            for i, (c, bad) in enumerate(order)
        ),
        class_index=class_index,
        is_anomalous=is_anomalous,
        rows=rows,
        all_features=features,
        all_images=rng.integers(0, 256, (num, 3, SIZE, SIZE), dtype=np.uint8),
        all_masks=masks,
        has_mask=has_mask,
    )


class FeatureNormModel(nn.Module):
    """Its map is the features' norm per location, upsampled; its codes are the features' rounded first channel.

    With `num_maps` there are other maps, each of fewer channels. With `stray` images whose first feature is large take another class's route.
    """

    needs_images = False

    def __init__(
        self,
        *,
        codebooks_per_class: bool = False,
        shares: Sequence[float] = (0.0,),
        num_routes: int = 1,
        num_maps: int = 1,
        stray: bool = False,
    ) -> None:
        super().__init__()
        fields = ErrorMapFields(score_top_fraction=[*shares], score_pool_size=1)
        self.image_score = ImageScore(fields, num_routes=num_routes)
        self.map_choice = RouteChoice(num_maps, num_routes=num_routes)
        self.stray = stray
        self.router = Router("oracle", num_classes=len(CLASS_NAMES), channels=3)
        self.codebooks_per_class = frozenset({"q0"} if codebooks_per_class else ())
        self.scale = nn.Parameter(torch.ones(()))
        self.batch_sizes: list[int] = []

    def codebook_sizes(self) -> dict[str, int]:
        return {"q0": 16}

    def predict(self, batch: Batch) -> Prediction:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        assert (batch.images_B3HW is not None) == self.needs_images
        self.batch_sizes.append(len(batch.class_index_B))
        scaled = self.scale * batch.features_BChw
        norms = torch.stack([scaled[:, a:].norm(dim=1) for a in range(self.map_choice.num_rules)], dim=1)
        maps_BAHW: Tensor = nn.functional.interpolate(norms, size=(SIZE, SIZE), mode="bilinear")
        codes = (batch.features_BChw[:, 0].flatten(1) * 2 + 8).round().clamp(0, 15).long()
        route_B = batch.class_index_B if len(self.image_score.chosen_R) > 1 else 0 * batch.class_index_B
        if self.stray:
            route_B = torch.where(batch.features_BChw[:, 0, 0, 0] > 0, (route_B + 1) % 3, route_B)
        return Prediction.chosen(
            maps_BAHW,
            self.image_score(maps_BAHW[:, :1]),
            {"q0": codes},
            route_B,
            router=self.router,
            map_choice=self.map_choice,
            image_score=self.image_score,
        )


class ThreadRank:
    """One of several ranks that are threads of this process."""

    device = torch.device("cpu")

    def __init__(self, rank: int, shared: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.world_size = rank, len(shared)
        self._shared, self._barrier = shared, barrier

    def all_gather_object(self, value: Any) -> list[Any]:
        self._shared[self.rank] = value
        self._barrier.wait(timeout=30)
        gathered = list(self._shared)
        self._barrier.wait(timeout=30)  # before another value takes the place of one that is still to be read
        return gathered

    def all_reduce_sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def broadcast_(self, tensor: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def on_ranks(world_size: int, work: Callable[[ThreadRank], T]) -> list[T]:
    """What `work` returns on each of several ranks that run at the same time."""
    barrier, shared = threading.Barrier(world_size), [None] * world_size
    with ThreadPoolExecutor(world_size) as pool:
        ranks = [ThreadRank(rank, shared, barrier) for rank in range(world_size)]
        return list(pool.map(work, ranks))
