"""What models measure on normal training images before an evaluation: which images count for which route, and on which rank."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray_head import unused_port
from tiny_data import CHANNELS, GRID, tiny_data
from two_ranks import run_two_ranks

from hvqray.config.model_sections import HvqConfig, SquadConfig
from hvqray.data.dataset import Split
from hvqray.models import squad
from hvqray.models.batch import Batch, RouteImages
from hvqray.models.build import build_model
from hvqray.models.feature_codes import FeatureCodes
from hvqray.models.hvq import HvqModel
from hvqray.models.residual_distance import MahalanobisDistance
from hvqray.models.squad import SquadModel
from hvqray.training.batches import make_batch
from hvqray.training.calibration import Calibrator, members_of_routes, spread_evenly, spread_over_classes
from hvqray.training.communicator import Communicator, ProcessGroup, SingleProcess

MAP = {
    "map_distance": "local_mahalanobis",
    "map_norm_weight": 1.0,
    "feature_codes": 10,
    "map_code_weight": 4.0,
    "score_from": "codes",
    "score_pool_size": 4,
}
SMALL = {"width": 16, "codebook_size": 4, "quantizer": "none"} | MAP
HVQ = HvqConfig.model_validate(SMALL | {"num_heads": 2, "feedforward_width": 16})
SQUAD = SquadConfig.model_validate(SMALL | {"name": "squad", "image_head": False})
COUNTS = (14, 9, 5)


def made(config: HvqConfig | SquadConfig, **fields: object) -> HvqModel | SquadModel:
    torch.manual_seed(0)
    data = tiny_data(counts=COUNTS)
    model = build_model(config.model_copy(update=fields), data.context)
    assert isinstance(model, HvqModel | SquadModel)
    model.prepare(lambda: iter([whole(data.splits["train"])]), seed=0)
    if model.router.mode == "predicted":
        # Nothing is near the last class's prototype, and half of the second class is taken for the first.
        model.router.prototype_MC[2] = torch.inf
        pooled_BC = model.router._pool(whole(data.splits["train"]).features_BChw)
        model.router.prototype_MC[:2] = torch.stack([pooled_BC[14:18].mean(0), pooled_BC[18:23].mean(0)])
    return model


def whole(split: Split) -> Batch:
    return make_batch(split, np.arange(len(split)), device="cpu", images=False)


def calibrate(model: HvqModel | SquadModel, communicator: Communicator | None = None) -> None:
    communicator = communicator or SingleProcess()
    model.all_reduce_sum_ = communicator.all_reduce_sum_
    split = tiny_data(counts=COUNTS).splits["train"]
    Calibrator(split, communicator, images_per_class=None, batch_size=4).calibrate(model)


def errors_features_and_routes(
    model: HvqModel | SquadModel,
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Image by image."""
    split = tiny_data(counts=COUNTS).splits["train"]
    errors, features, routes = [], [], []
    with torch.no_grad():
        model.eval()
        for i in range(len(split)):
            batch = make_batch(split, np.array([i]), device="cpu", images=False)
            errors_1Chw, features_1Chw = model._errors(batch)
            errors.append(errors_1Chw)
            features.append(features_1Chw)
            routes += model.router(batch.features_BChw, batch.class_index_B).tolist()
        model.train()
    return torch.cat(errors), torch.cat(features), routes


@pytest.mark.parametrize("router", ["oracle", "predicted", "none"])
@pytest.mark.parametrize("config", [HVQ, SQUAD], ids=["hvq", "squad"])
def test_a_route_is_measured_on_the_images_that_take_it_else_on_all(
    config: HvqConfig | SquadConfig, router: str
) -> None:
    model = made(config, router=router)
    calibrate(model)
    errors, features, routes = errors_features_and_routes(model)
    if router == "predicted":
        assert 0 < routes[14:23].count(0) < 9
        assert 2 not in routes
    assert model.error_map.fine is not None
    assert model.error_map.fine_codes is not None
    for route in range(model.router.num_routes):
        is_mine = torch.tensor([own in (route,) or route not in routes for own in routes])
        mine = errors[is_mine]
        codes = FeatureCodes(1, CHANNELS, 10)
        codes.add(features[is_mine])
        codes.finish([0])
        assert torch.equal(model.error_map.fine_codes.codes_RKC[route], codes.codes_RKC[0])
        torch.testing.assert_close(model.error_map.fine_codes.rms_R[route], codes.rms_R[0])
        alone = MahalanobisDistance(1, CHANNELS, GRID * GRID, local=True)
        alone.add(mine)
        alone.finish([0])
        for name, expected in alone.named_buffers():
            found = getattr(model.error_map.fine, name)[route]
            torch.testing.assert_close(found, expected[0], rtol=2e-3, atol=2e-3)
        norm_rms = mine.square().sum(1).mean().sqrt()
        torch.testing.assert_close(model.error_map.norm_rms_R[route], norm_rms, rtol=1e-4, atol=0)


@pytest.mark.parametrize("router", ["oracle", "predicted"])
def test_parts_of_the_map_are_in_units_of_every_image_once(router: str) -> None:
    """Whatever route they take; what a route without images of its own is measured on does not count again."""
    model = made(SQUAD, router=router)
    assert isinstance(model, SquadModel)
    calibrate(model)
    with torch.no_grad():
        model.eval()
        components, _ = model._components(whole(tiny_data(counts=COUNTS).splits["train"]), measured=True)
    for name, values in model.component_map.normalize(components).items():
        assert values.mean().item() == pytest.approx(0, abs=1e-3), name
        assert values.std(correction=0).item() == pytest.approx(1, abs=1e-3), name


def test_of_many_images_some_stand_for_all_of_their_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squad, "IMAGES_MEASURED", 15)  # five a route, of 14, 9 and 5
    monkeypatch.setattr(squad, "LEAST_OF_ROUTE", 2)
    model = made(SQUAD, router="oracle")
    assert isinstance(model, SquadModel)
    calibrate(model)
    chosen = [start + spread_evenly(count, 5) for start, count in ((0, 14), (14, 9), (23, 5))]
    with torch.no_grad():
        model.eval()
        components, _ = model._components(whole(tiny_data(counts=COUNTS).splits["train"]), measured=True)
    weight_n = torch.tensor(COUNTS).repeat_interleave(5) / 5
    for name, values in model.component_map.normalize(components).items():
        values_nL = values[np.concatenate(chosen)].flatten(1)
        mean = (weight_n[:, None] * values_nL).sum() / (weight_n.sum() * values_nL.shape[1])
        square = (weight_n[:, None] * values_nL.square()).sum() / (weight_n.sum() * values_nL.shape[1])
        assert mean.item() == pytest.approx(0, abs=1e-3), name
        assert square.sqrt().item() == pytest.approx(1, abs=1e-3), name


def test_a_route_is_done_with_before_the_images_of_the_next_are_asked_for() -> None:
    model = made(HVQ)
    assert model.error_map.fine is not None
    rms_R = model.error_map.fine.rms_R
    split = tiny_data(counts=COUNTS).splits["train"]
    done_when_asked = []

    def images(route: int) -> RouteImages:
        def batches(most: int | None) -> Iterator[Batch]:
            done_when_asked.append((rms_R != 1).tolist())
            yield make_batch(split, np.flatnonzero(split.class_index == route), device="cpu", images=False)

        return RouteImages((route,), COUNTS[route], batches)

    model.calibrate(images(route) for route in range(3))
    assert done_when_asked == [[False] * 3, [True, False, False], [True, True, False]]


def test_the_distance_of_the_norm_needs_no_normal_images() -> None:
    def batches(most: int | None) -> Iterator[Batch]:
        pytest.fail("asked for images")
        yield

    no_distance = {"map_distance": "l2", "map_norm_weight": 0.0, "feature_codes": 0, "score_from": "map"}
    made(HVQ, **no_distance).calibrate([RouteImages((0,), 1, batches)])


def test_images_are_spread_evenly_over_their_class() -> None:
    split = tiny_data(counts=(9, 2)).splits["train"]
    some, all_of_few = spread_over_classes(split, 3)
    assert (some // 3).tolist() == [0, 1, 2]
    assert all_of_few.tolist() == [9, 10]
    assert [len(chosen) for chosen in spread_over_classes(split, None)] == [9, 2]
    draws = {tuple(spread_over_classes(split, 3, seed=seed)[0].tolist()) for seed in range(5)}
    assert len(draws) > 1


@pytest.mark.parametrize(("num_images", "most"), [(240, 48), (50, 48), (1001, 64), (7, None), (0, 5)])
def test_a_spread_has_one_of_each_part_and_every_camera(num_images: int, most: int | None) -> None:
    """Of a sample's images those of five cameras follow each other, as in Real-IAD; a fixed distance of five would see one."""
    chosen = spread_evenly(num_images, most)
    assert len(chosen) == min(num_images, most or num_images)
    starts = np.arange(len(chosen) + 1) * num_images // max(len(chosen), 1)
    assert (starts[:-1] <= chosen).all()
    assert (chosen < starts[1:]).all()
    assert np.bincount(chosen % 5, minlength=5).min() >= len(chosen) // 10


def test_every_route_has_images() -> None:
    found = members_of_routes(np.array([3, 1, 3, 1, 1]), num_routes=5)
    told = [(each.routes, each.index_n.tolist(), each.are_of_others) for each in found]
    assert told == [((1,), [1, 3, 4], False), ((3,), [0, 2], False), ((0, 2, 4), [0, 1, 2, 3, 4], True)]
    assert [each.routes for each in members_of_routes(np.array([1, 0]), num_routes=2)] == [(0,), (1,)]


ON_TWO_RANKS: dict[str, HvqConfig | SquadConfig] = {
    "classes": HVQ,
    "strays": HVQ.model_copy(update={"router": "predicted"}),
    "squad-classes": SQUAD.model_copy(update={"router": "oracle"}),
    "squad-strays": SQUAD.model_copy(update={"router": "predicted"}),
    "one route": SQUAD,
    "no distance": SQUAD.model_copy(
        update={"map_distance": "l2", "map_norm_weight": 0.0, "feature_codes": 0, "score_from": "map"}
    ),
}


def _measure(rank: int, folder: str) -> None:
    for case, config in ON_TWO_RANKS.items():
        model = made(config)
        if rank == 1:  # whatever it is not given stays wrong
            for tensor in [*model.error_map.buffers()]:
                tensor.fill_(7)
            model.routes = lambda batch: pytest.fail("rank 0's word counts")  # type: ignore[method-assign]
        routes = noted_routes(model)
        calibrate(model, ProcessGroup("cpu"))
        state = {name: tensor for name, tensor in model.state_dict().items() if "_map." in name}
        torch.save({"state": state, "routes": routes}, Path(folder, f"{case}-{rank}.pt"))


def noted_routes(model: HvqModel | SquadModel) -> list[tuple[int, ...]]:
    """A list of the routes that the model measures from now on."""
    routes: list[tuple[int, ...]] = []
    measure = model.calibrate

    def noting(images: Iterable[RouteImages]) -> None:
        given = list(images)
        routes.extend(each.routes for each in given)
        measure(given)

    model.calibrate = noting  # type: ignore[method-assign]
    return routes


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    run_two_ranks(_measure, unused_port(), str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "routes"),
    {
        "classes": ([(0,)], [(1,), (2,)]),
        # rank 0 measures on all images for the route that no image takes
        "strays": ([(2,)], [(0,), (1,)]),
        "squad-classes": ([(0,)], [(1,), (2,)]),
        "squad-strays": ([(2,)], [(0,), (1,)]),
        "one route": ([(0,)], []),
        "no distance": ([(0,)], []),
    }.items(),
)
def test_two_ranks_share_the_routes_and_both_have_what_one_would(
    on_two_ranks: Path, case: str, routes: tuple[list[tuple[int, ...]], list[tuple[int, ...]]]
) -> None:
    alone = made(ON_TWO_RANKS[case])
    calibrate(alone)
    expected = {name: tensor for name, tensor in alone.state_dict().items() if "_map." in name}
    for rank in range(2):
        found: dict[str, Any] = torch.load(on_two_ranks / f"{case}-{rank}.pt")
        assert found["routes"] == routes[rank]
        assert found["state"].keys() == expected.keys()
        for name, tensor in found["state"].items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


def _raise_on_one(rank: int, folder: str) -> None:
    model = made(HVQ)
    communicator = ProcessGroup("cpu")
    if rank == 1:
        model.calibrate = lambda images: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    try:
        calibrate(model, communicator)
    except Exception as error:
        Path(folder, f"{rank}.txt").write_text(f"{type(error).__name__}: {error}")
    os._exit(0)  # as a worker whose training raised ends


@pytest.mark.slow
def test_no_rank_waits_for_one_that_raised(tmp_path: Path) -> None:
    run_two_ranks(_raise_on_one, unused_port(), str(tmp_path))
    told = [Path(tmp_path, f"{rank}.txt").read_text() for rank in range(2)]
    assert told[1].startswith("ZeroDivisionError")
    assert "Connection closed by peer" in told[0] or "gloo/transport" in told[0]
