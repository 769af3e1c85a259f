"""`predict` against the formulas of docs/models.md in NumPy and SciPy: which parts make up the map, with which weights, and which the score.

The parts themselves (reconstruction, OT, SSIM, the fitted Gaussians) have tests of their own; here they are taken from the model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from calibrated import calibrate
from model_cases import (
    CHANNELS,
    CONTEXT,
    GRID,
    IMAGE_SIZE,
    hvq,
    make_batch,
    make_model,
    squad,
    training_batches,
)
from scipy import ndimage
from torch import Tensor

from hvqray.config.model_sections import HvqConfig, SquadConfig
from hvqray.models.batch import Batch
from hvqray.models.hvq import HvqModel
from hvqray.models.interface import AnomalyModel
from hvqray.models.residual_distance import ErrorMap
from hvqray.models.squad import SquadModel

FRACTIONS = [0.0, 0.02, 0.2]
MAP: dict[str, Any] = {
    "router": "predicted",
    "map_norm_weight": 0.7,
    "map_coarse_weight": 0.3,
    "feature_codes": 5,
    "map_code_weight": 1.5,
    "score_top_fraction": FRACTIONS,
}
"""What both models are given alike."""


def batch_with_a_misrouted_image() -> Batch:
    """The last image looks like class 0 and is said to be of class 2."""
    batch = make_batch(6, seed=7)
    features = batch.features_BChw.clone()
    features[5] = features[0] + 0.1
    features[1, :, 2:4, 3:5] += 3  # a defect
    return Batch(features, batch.class_index_B, batch.images_B3HW)


def distance(gaussians: Any, errors_Chw: np.ndarray, route: int) -> np.ndarray:
    """(h, w): length of the whitened error over its root mean square, place by place."""
    out = np.empty(GRID)
    for y in range(GRID[0]):
        for x in range(GRID[1]):
            place = y * GRID[1] + x if gaussians.local else 0
            mean = gaussians.mean_RPC[route, place].double().numpy()
            whitening = gaussians.whitening_RPCC[route, place].double().numpy()
            scale, rms = gaussians.scale_R[route].item(), gaussians.rms_R[route].item()
            out[y, x] = np.linalg.norm(whitening @ ((errors_Chw[:, y, x] - mean) / scale)) / rms
    return out


def averaged(errors_Chw: np.ndarray) -> np.ndarray:
    """Over 3 x 3 locations, at the edges over those that exist."""
    out = np.empty_like(errors_Chw)
    for y in range(GRID[0]):
        for x in range(GRID[1]):
            out[:, y, x] = errors_Chw[:, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].mean((1, 2))
    return out


def code_distance(codes: Any, features_Chw: np.ndarray, route: int) -> np.ndarray:
    """(h, w): distance from the nearest kept feature over its root mean square."""
    flat_LC = features_Chw.reshape(len(features_Chw), -1).T
    apart_LK = np.linalg.norm(flat_LC[:, None] - codes.codes_RKC[route].double().numpy(), axis=2)
    out: np.ndarray = apart_LK.min(1).reshape(GRID) / codes.rms_R[route].item()
    return out


def error_maps(
    error_map: ErrorMap, errors_Chw: np.ndarray, features_Chw: np.ndarray, route: int, config: Any
) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) of the map, and of what the score is taken from."""
    fine = distance(error_map.fine, errors_Chw, route)
    coarse = distance(error_map.coarse, averaged(errors_Chw), route)
    norm = np.linalg.norm(errors_Chw, axis=0) / error_map.norm_rms_R[route].item()
    far = code_distance(error_map.coarse_codes, averaged(features_Chw), route)
    whole = fine + config.map_norm_weight * norm
    whole = whole + config.map_code_weight * code_distance(error_map.fine_codes, features_Chw, route)
    whole = whole + config.map_coarse_weight * (coarse + config.map_code_weight * far)
    sources = {"map": whole, "coarse": coarse, "both": fine + coarse}
    sources["codes"] = fine + coarse + config.score_code_weight * far
    return whole, sources[config.score_from]


def upsampled(map_hw: np.ndarray, *, at_centres: bool = False) -> np.ndarray:
    """Bilinear, corners aligned or a location at the centre of its cell."""
    at = np.linspace(0, map_hw.shape[0] - 1, IMAGE_SIZE)
    if at_centres:
        at = (np.arange(IMAGE_SIZE) + 0.5) * map_hw.shape[0] / IMAGE_SIZE - 0.5
    grid = np.meshgrid(at, at, indexing="ij")
    out: np.ndarray = ndimage.map_coordinates(map_hw, grid, order=1, mode="nearest")
    return out


def score(map_HW: np.ndarray, pool: int, fraction: float) -> float:
    windows = np.lib.stride_tricks.sliding_window_view(map_HW, (pool, pool)).mean((2, 3))
    highest = np.sort(windows.ravel())[::-1]
    return float(highest[: max(1, round(fraction * highest.size))].mean())


def calibrated(config: HvqConfig | SquadConfig, rules: list[int]) -> AnomalyModel:
    """A model that scores the images of route r by rule `rules[r]`."""
    model = make_model(config)
    calibrate(model, training_batches)
    model.image_score.choose(rules)
    return model


def as_double(tensor: Tensor) -> np.ndarray:
    return tensor.double().numpy()


@pytest.mark.parametrize("score_from", ["map", "coarse", "both", "codes"])
@pytest.mark.parametrize("map_distance", ["mahalanobis", "local_mahalanobis"])
def test_hvq(map_distance: str, score_from: str) -> None:
    config = hvq(
        **MAP,
        map_distance=map_distance,
        score_from=score_from,
        ot_weight=2.0,
        ot_levels=[0, 1],
    )
    rules = [2, 1, 0]
    model = calibrated(config, rules)
    assert isinstance(model, HvqModel)
    batch = batch_with_a_misrouted_image()
    found = model.predict(batch)
    with torch.no_grad():
        model.eval()
        route_B = model.router(batch.features_BChw, batch.class_index_B)
        assert route_B.tolist() == [0, 1, 2, 0, 1, 0], "the last one is taken for another class"
        features = model.standardizer(batch.features_BChw)
        output, latents = model.network(features, route_B)
        costs = [
            model.network.lower[i].transport_cost(latents.lower_input_BLW[i], route_B)  # type: ignore[union-attr]
            for i in (0, 1)
        ]
    errors = as_double(output - features)
    for i, route in enumerate(route_B.tolist()):
        whole, scored = error_maps(model.error_map, errors[i], as_double(features[i]), route, config)
        ot = sum(2.0 * as_double(cost[i]).reshape(GRID) for cost in costs)
        np.testing.assert_allclose(found.maps_BHW[i].numpy(), upsampled(whole + ot), rtol=2e-4, atol=2e-4)
        expected = score(upsampled(scored + ot), 4, FRACTIONS[rules[route]])
        assert found.scores_B[i].item() == pytest.approx(expected, rel=2e-4)
    assert found.routed_class_B is not None
    assert found.candidates is not None
    assert found.candidates.route_B.tolist() == found.routed_class_B.tolist() == route_B.tolist()


@pytest.mark.parametrize("score_from", ["map", "coarse", "both", "codes"])
def test_squad(score_from: str) -> None:
    config = squad(
        **MAP,
        map_distance="local_mahalanobis",
        score_from=score_from,
        map_cosine_weight=0.5,
        map_l2_weight=2.0,
        map_image_weight=0.25,
        map_discriminator_weight=0.75,
        smoothing_sigma=1.5,
    )
    rules = [1, 2, 0]
    model = calibrated(config, rules)
    assert isinstance(model, SquadModel)
    batch = batch_with_a_misrouted_image()
    found = model.predict(batch)
    with torch.no_grad():
        model.eval()
        route_B = model.router(batch.features_BChw, batch.class_index_B)
        features = model.standardizer(batch.features_BChw)
        reconstruction = model.generator(features)
        components, _ = model._components(batch)
    errors = as_double(reconstruction.features_BChw - features)
    rebuilt, target = as_double(reconstruction.features_BChw), as_double(features)
    cosine = (rebuilt * target).sum(1) / np.linalg.norm(rebuilt, axis=1) / np.linalg.norm(target, axis=1)
    weights = {"cosine": 0.5, "l2": 2.0, "image": 0.25, "discriminator": 0.75}
    fitted = model.component_map
    mean = dict(zip(fitted.names, fitted.mean_n.tolist(), strict=True))
    std = dict(zip(fitted.names, fitted.std_n.tolist(), strict=True))
    for i, route in enumerate(route_B.tolist()):
        l2, scored = error_maps(model.error_map, errors[i], as_double(features[i]), route, config)
        parts = {name: as_double(components[name][i]) for name in ("image", "discriminator")}
        parts |= {"cosine": 1 - cosine[i], "l2": l2}

        def fused(l2_part: np.ndarray, name: str) -> np.ndarray:
            total = sum(
                weight * upsampled((parts[key] - mean[key]) / std[key], at_centres=key != "cosine")  # noqa: B023  (called at once)
                for key, weight in weights.items()
                if key != "l2"
            )
            total = total + weights["l2"] * upsampled((l2_part - mean[name]) / std[name])
            return ndimage.gaussian_filter(total, 1.5, mode="nearest", truncate=4)

        whole = fused(l2, "l2")
        np.testing.assert_allclose(found.maps_BHW[i].numpy(), whole, rtol=1e-3, atol=1e-3)
        scored_map = whole if score_from == "map" else fused(scored, "score")
        expected = score(scored_map, 4, FRACTIONS[rules[route]])
        assert found.scores_B[i].item() == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_the_context_is_the_one_that_the_references_were_written_for() -> None:
    assert (CONTEXT.feature_channels, CONTEXT.image_size) == (CHANNELS, IMAGE_SIZE)
