"""Before an evaluation a model measures its map on normal training images, one route (class) after the other.

Routes are dealt to the ranks, and every rank then gets what the others measured: whichever classes it evaluates, and whichever
routes their images take, it has the same model as a single process, and rank 0's checkpoint is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hvqray.data.dataset import Split
from hvqray.models.batch import Batch, RouteImages
from hvqray.models.interface import AnomalyModel
from hvqray.training.batches import make_batch
from hvqray.training.communicator import Communicator
from hvqray.training.evaluation import deal, evaluating


@dataclass(frozen=True)
class RouteMembers:
    """Which images some routes are measured on; as `RouteImages`, with numbers of images in place of the images."""

    routes: tuple[int, ...]
    index_n: np.ndarray
    are_of_others: bool = False


class Calibrator:
    """Has a model measure its maps on normal images of one split, as often as it is evaluated."""

    def __init__(
        self,
        split: Split,
        communicator: Communicator,
        *,
        images_per_class: int | None,
        batch_size: int = 64,
        precision_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._split, self._communicator, self._batch_size = split, communicator, batch_size
        self._precision_context = precision_context
        self._positions = np.concatenate(spread_over_classes(split, images_per_class))
        self._members: list[RouteMembers] | None = None

    def calibrate(self, model: AnomalyModel) -> None:
        """Have `model` measure the maps of all of its routes; those that no image takes, on all images. Called by every rank."""
        if self._members is None:  # what images are told apart by does not change while a model is trained
            self._members = members_of_routes(self._routes(model), num_routes=model.router.num_routes)
        num_images = {number: len(members.index_n) for number, members in enumerate(self._members)}
        owners = deal(num_images, self._communicator.world_size)
        with self._precision_context():
            model.calibrate(
                self._images(self._members[number], model) for number in owners[self._communicator.rank]
            )
        for rank, numbers in enumerate(owners):
            for route in (route for number in numbers for route in self._members[number].routes):
                for of_routes in model.error_map.buffers():
                    self._communicator.broadcast_(of_routes[route], src=rank)

    def _routes(self, model: AnomalyModel) -> np.ndarray:
        """The route of each image, (n,) int64."""
        class_index_n = torch.from_numpy(self._split.class_index[self._positions])
        if model.router.mode != "predicted":
            return model.router.true_route(class_index_n).numpy()
        # As rank 0 sees them: ranks that differed in one would wait for each other forever.
        route_n = class_index_n.to(self._communicator.device)
        if self._communicator.rank == 0:
            with evaluating(model):
                batches = self._batches(self._positions, images=False)
                routes = [model.router(batch.features_BChw, batch.class_index_B) for batch in batches]
            route_n.copy_(torch.cat(routes))
        return self._communicator.broadcast_(route_n).cpu().numpy()

    def _images(self, members: RouteMembers, model: AnomalyModel) -> RouteImages:
        def batches(most: int | None) -> Iterator[Batch]:
            chosen_n = members.index_n[spread_evenly(len(members.index_n), most)]
            return self._batches(self._positions[chosen_n], images=model.needs_images)

        return RouteImages(members.routes, len(members.index_n), batches, members.are_of_others)

    def _batches(self, positions: np.ndarray, *, images: bool) -> Iterator[Batch]:
        for start in range(0, len(positions), self._batch_size):
            chosen = positions[start : start + self._batch_size]
            yield make_batch(self._split, chosen, device=self._communicator.device, images=images)


def spread_over_classes(split: Split, images_per_class: int | None, *, seed: int = 0) -> list[np.ndarray]:
    """Positions in `split` for every class: at most `images_per_class` of it (None: all), spread evenly over the class."""
    return [
        members[spread_evenly(len(members), images_per_class, seed=seed)] for _, members in split.by_class()
    ]


def spread_evenly(num_images: int, most: int | None, *, seed: int = 0) -> np.ndarray:
    """Numbers in [0, num_images), ascending: all, or `most` of them, one from each of as many equal parts.

    Which one is drawn: at a fixed distance, images that were taken by several cameras in turn might all be of one.
    """
    num_chosen = min(most or num_images, num_images)
    start = np.arange(num_chosen + 1) * num_images // max(num_chosen, 1)
    offset = np.random.default_rng(seed).random(num_chosen) * np.diff(start)
    return start[:-1] + offset.astype(np.int64)


def members_of_routes(route_n: np.ndarray, *, num_routes: int) -> list[RouteMembers]:
    """The images of each route, told the route of each; and all images for all routes that none takes."""
    seen, unseen = [], []
    for route in range(num_routes):
        index_n = np.flatnonzero(route_n == route)
        if len(index_n):
            seen.append(RouteMembers((route,), index_n))
        else:
            unseen.append(route)
    if unseen:
        seen.append(RouteMembers(tuple(unseen), np.arange(len(route_n)), are_of_others=True))
    return seen
