"""Maps measured on batches of images held in memory, as a run measures them on its training images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from hvqray.models.batch import Batch, RouteImages
from hvqray.models.interface import AnomalyModel
from hvqray.training.calibration import RouteMembers, members_of_routes, spread_evenly
from hvqray.training.evaluation import evaluating


def calibrate(model: AnomalyModel, batches: Callable[[], Iterable[Batch]]) -> None:
    """Have `model` measure the maps of all of its routes on all images of `batches`."""
    given = list(batches())
    whole = _joined(given)
    with evaluating(model):
        routes = [model.router(batch.features_BChw, batch.class_index_B) for batch in given]
    route_n = torch.cat(routes).numpy()

    def images(members: RouteMembers) -> RouteImages:
        def passes(most: int | None) -> Iterator[Batch]:
            chosen_n = members.index_n[spread_evenly(len(members.index_n), most)]
            yield _rows(whole, torch.from_numpy(chosen_n))

        return RouteImages(members.routes, len(members.index_n), passes, members.are_of_others)

    members = members_of_routes(route_n, num_routes=model.router.num_routes)
    model.calibrate(images(each) for each in members)


def _joined(batches: list[Batch]) -> Batch:
    images = [batch.images_B3HW for batch in batches if batch.images_B3HW is not None]
    return Batch(
        torch.cat([batch.features_BChw for batch in batches]),
        torch.cat([batch.class_index_B for batch in batches]),
        torch.cat(images) if images else None,
    )


def _rows(batch: Batch, rows: torch.Tensor) -> Batch:
    images = None if batch.images_B3HW is None else batch.images_B3HW[rows]
    return Batch(batch.features_BChw[rows], batch.class_index_B[rows], images)
