"""The Mahalanobis distance of errors, against scikit-learn's covariance and SciPy's distance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance
from torch import Tensor

from hvqray.config.model_sections import ErrorMapFields
from hvqray.models.feature_codes import FeatureCodes
from hvqray.models.gaussians import BAND, LEAF, RIDGE, inverse_factor, left_out, oas_shrinkage
from hvqray.models.residual_distance import ErrorMap, MahalanobisDistance

CHANNELS, GRID = 5, (3, 4)
LOCATIONS = GRID[0] * GRID[1]


def errors(
    num_images: int, *, seed: int, scale: float = 1.0, shift: float = 0.0, channels: int = CHANNELS
) -> Tensor:
    """Correlated errors, (num_images, channels, *GRID)."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(channels, channels)) * scale
    noise = rng.normal(size=(num_images, *GRID, channels))
    return torch.from_numpy((noise @ mixing + shift).transpose(0, 3, 1, 2)).float()


def expected_distance(fitted: Tensor, asked: Tensor) -> np.ndarray:
    """One location after the other, (B, h, w)."""
    rows = fitted.permute(0, 2, 3, 1).reshape(-1, CHANNELS).double().numpy()
    covariance = EmpiricalCovariance().fit(rows)
    ridge = RIDGE * np.diag(covariance.covariance_).mean() * np.eye(CHANNELS)
    precision = np.linalg.inv(covariance.covariance_ + ridge)
    return np.array(
        [
            [
                [mahalanobis(image[:, y, x], covariance.location_, precision) for x in range(GRID[1])]
                for y in range(GRID[0])
            ]
            for image in asked.double().numpy()
        ]
    )


def fit(distance: MahalanobisDistance, parts: Iterable[Tensor], routes: Sequence[int] = (0,)) -> None:
    """Measure `distance` of `routes` on all errors of `parts`, (B, C, h, w)."""
    for error_BChw in parts:
        distance.add(error_BChw)
    distance.finish(routes)


def one_route(num_images: int) -> Tensor:
    return torch.zeros(num_images, dtype=torch.int64)


def test_equals_the_textbook_distance_however_the_images_are_batched() -> None:
    fitted, asked = errors(20, seed=0, shift=2.0), errors(4, seed=1)
    distance = MahalanobisDistance(1, CHANNELS, LOCATIONS)
    fit(distance, fitted.split([7, 12, 1]))
    found = distance(asked, one_route(4))
    assert found.dtype == torch.float32
    found = found * distance.rms_R[0]
    np.testing.assert_allclose(found.numpy(), expected_distance(fitted, asked), rtol=1e-4)


def test_each_route_has_a_distribution_of_its_own() -> None:
    first, second, asked = errors(9, seed=2), errors(6, seed=3, scale=9.0, shift=4.0), errors(2, seed=4)
    distance = MahalanobisDistance(3, CHANNELS, LOCATIONS)
    fit(distance, first.split(5))
    fit(distance, second.split(4), routes=[1])
    for route, fitted in enumerate((first, second)):
        found = distance(asked, torch.full((2,), route)) * distance.rms_R[route]
        np.testing.assert_allclose(found.numpy(), expected_distance(fitted, asked), rtol=1e-4)
    together = distance(asked, torch.tensor([1, 0])) * distance.rms_R[[1, 0]][:, None, None]
    np.testing.assert_allclose(together[0].numpy(), expected_distance(second, asked[:1])[0], rtol=1e-4)
    np.testing.assert_allclose(together[1].numpy(), expected_distance(first, asked[1:])[0], rtol=1e-4)


@pytest.mark.parametrize("local", [False, True])
def test_several_routes_may_have_the_same_distribution(local: bool) -> None:
    fitted, asked = errors(15, seed=6, shift=3.0), errors(2, seed=5)
    distance, alone = (MahalanobisDistance(n, CHANNELS, LOCATIONS, local=local) for n in (4, 1))
    fit(distance, [errors(7, seed=40, scale=50.0)], routes=[0])
    fit(distance, fitted.split([4, 11]), routes=[1, 3])
    fit(alone, fitted.split([4, 11]))
    expected = alone(asked, one_route(2))
    for route in (1, 3):
        assert torch.equal(distance(asked, one_route(2) + route), expected)
    for route in (0, 2):
        assert not torch.allclose(distance(asked, one_route(2) + route), expected, rtol=0.1)


def test_a_second_fit_forgets_the_first() -> None:
    fitted, asked = errors(8, seed=7), errors(2, seed=8)
    distance = MahalanobisDistance(1, CHANNELS, LOCATIONS)
    fit(distance, [errors(8, seed=9, scale=5.0, shift=3.0)])
    fit(distance, [fitted])
    found = distance(asked, one_route(2)) * distance.rms_R[0]
    np.testing.assert_allclose(found.numpy(), expected_distance(fitted, asked), rtol=1e-4)


@pytest.mark.parametrize("flaw", ["fewer locations than channels", "no error at all"])
def test_a_singular_covariance_gives_finite_distances(flaw: str) -> None:
    fitted = errors(1, seed=10)[:, :, :1, :2] if flaw.startswith("fewer") else torch.zeros(3, CHANNELS, *GRID)
    distance = MahalanobisDistance(1, CHANNELS, LOCATIONS)
    fit(distance, [fitted])
    assert distance(errors(2, seed=11), one_route(2)).isfinite().all()


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("fitted", [errors(1, seed=30), errors(1, seed=30).repeat(3, 1, 1, 1)])
def test_errors_that_do_not_vary_are_measured_from_by_the_norm(local: bool, fitted: Tensor) -> None:
    fitted = fitted[:, :, :1, :1].expand(-1, -1, *GRID)  # nor from location to location
    distance = MahalanobisDistance(1, CHANNELS, LOCATIONS, local=local)
    fit(distance, [fitted])
    asked = errors(2, seed=31)
    ratio = distance(asked, one_route(2)) / (asked - fitted[:1]).norm(dim=1)
    torch.testing.assert_close(ratio, ratio[:1, :1, :1].expand_as(ratio), rtol=2e-3, atol=0)
    assert 0.1 < ratio[0, 0, 0] < 10


@pytest.mark.parametrize("local", [False, True])
def test_a_mean_far_larger_than_the_spread_costs_no_precision(local: bool) -> None:
    fitted, asked = errors(30, seed=32), errors(3, seed=33)
    far = torch.linspace(-1e3, 1e3, CHANNELS)[:, None, None]
    near_by, far_off = (MahalanobisDistance(1, CHANNELS, LOCATIONS, local=local) for _ in range(2))
    fit(near_by, fitted.split([13, 17]))
    fit(far_off, (fitted + far).split([13, 17]))
    found, expected = far_off(asked + far, one_route(3)), near_by(asked, one_route(3))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize("local", [False, True])
def test_autocast_changes_nothing(local: bool) -> None:
    fitted, asked = errors(10, seed=12, shift=30.0), errors(3, seed=13, shift=30.0)
    plain, cast = (MahalanobisDistance(1, CHANNELS, LOCATIONS, local=local) for _ in range(2))
    fit(plain, [fitted])
    expected = plain(asked, one_route(3))
    with torch.autocast("cpu", torch.bfloat16):
        fit(cast, [fitted])
        found = cast(asked, one_route(3))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_its_state_travels_with_the_model() -> None:
    source, target = MahalanobisDistance(2, CHANNELS, LOCATIONS), MahalanobisDistance(2, CHANNELS, LOCATIONS)
    for route in (0, 1):
        fit(source, [errors(3, seed=14 + route)], routes=[route])
    target.load_state_dict(source.state_dict())
    asked = errors(2, seed=36)
    assert torch.equal(target(asked, one_route(2)), source(asked, one_route(2)))


def expected_local_distance(fitted: Tensor, asked: Tensor, shrinkage: float) -> np.ndarray:
    """A Gaussian for every location, its covariance pulled towards the mean of all, as the docstring says."""
    fitted_nhwC, asked_nhwC = (x.permute(0, 2, 3, 1).double().numpy() for x in (fitted, asked))
    own = {(y, x): np.cov(fitted_nhwC[:, y, x].T, bias=True) for y in range(GRID[0]) for x in range(GRID[1])}
    pooled = np.mean(list(own.values()), axis=0)
    ridge = RIDGE * np.diag(pooled).mean() * np.eye(len(pooled))
    expected = np.empty((len(asked), *GRID))
    for (y, x), covariance in own.items():
        precision = np.linalg.inv((1 - shrinkage) * covariance + shrinkage * pooled + ridge)
        mean = fitted_nhwC[:, y, x].mean(0)
        expected[:, y, x] = [mahalanobis(image[y, x], mean, precision) for image in asked_nhwC]
    return expected


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_local_distances_equal_the_textbook_at_every_location(shrinkage: float) -> None:
    fitted, asked = errors(30, seed=16, shift=2.0), errors(4, seed=17)
    fitted[:, :, 1] *= 3  # one row of locations errs more
    distance = MahalanobisDistance(1, CHANNELS, LOCATIONS, local=True, shrinkage=shrinkage)
    fit(distance, fitted.split([11, 19]))
    found = distance(asked, one_route(4)) * distance.rms_R[0]
    # half precision of the stored matrices
    np.testing.assert_allclose(found.numpy(), expected_local_distance(fitted, asked, shrinkage), rtol=5e-3)


def test_many_channels_are_as_exact_as_few_whatever_the_autocast() -> None:
    """More than the blocks in which matrices are inverted and multiplied."""
    channels = 2 * BAND + 5
    fitted, asked = (errors(n, seed=n, shift=1.0, channels=channels) for n in (40, 4))
    distance = MahalanobisDistance(1, channels, LOCATIONS, local=True, shrinkage=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        fit(distance, fitted.split([11, 29]))
    expected = expected_local_distance(fitted, asked, 0.3)
    found = distance(asked, one_route(4)) * distance.rms_R[0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-3)
    square_hw = (expected_local_distance(fitted, fitted, 0.3) ** 2).mean(0)
    expected_rms = left_out(torch.from_numpy(square_hw), 40, 0.7).mean().sqrt()
    assert distance.rms_R[0].item() == pytest.approx(expected_rms.item(), rel=1e-5)


def test_a_sample_that_is_left_out_is_judged_as_by_a_covariance_of_the_others() -> None:
    samples = errors(12, seed=40, shift=1.0)[:, :, 0, 0].double().numpy()
    own = EmpiricalCovariance().fit(samples)
    found = left_out(torch.from_numpy(own.mahalanobis(samples)), len(samples), 1.0)
    expected = [
        EmpiricalCovariance().fit(np.delete(samples, i, axis=0)).mahalanobis(samples[i : i + 1])[0]
        for i in range(len(samples))
    ]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("num_images", [8, 30])
@pytest.mark.parametrize("shrinkage", ["oas", 0.3])
def test_the_unit_is_what_other_normal_images_have(
    num_images: int, shrinkage: float | Literal["oas"]
) -> None:
    """However few images it was measured on, which themselves lie far nearer."""
    channels = 20
    both = errors(num_images + 400, seed=41, channels=channels)
    fitted, others = both[:num_images], both[num_images:]
    distance = MahalanobisDistance(1, channels, LOCATIONS, local=True, shrinkage=shrinkage)
    fit(distance, [fitted])
    of_others = distance(others, one_route(400)).square().mean().sqrt()
    as_others = distance(fitted, one_route(num_images), measured=True).square().mean().sqrt()
    as_they_are = distance(fitted, one_route(num_images)).square().mean().sqrt()
    assert of_others.item() == pytest.approx(1, abs=0.2)
    assert as_others.item() == pytest.approx(of_others.item(), rel=0.15)
    assert as_they_are < 0.95 * of_others


@pytest.mark.parametrize("channels", [1, LEAF, LEAF + 1, 3 * LEAF, 192])
def test_the_inverse_factor_is_exact_to_float32(channels: int) -> None:
    rng = np.random.default_rng(channels)
    mixing = rng.normal(size=(3, channels, channels)) * np.geomspace(0.1, 10, channels)
    covariance = mixing.transpose(0, 2, 1) @ mixing / channels + 0.01 * np.eye(channels)
    assert np.linalg.cond(covariance).max() > 1e3 or channels == 1
    expected = np.linalg.inv(np.linalg.cholesky(covariance))
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-13)):
        found = inverse_factor(torch.from_numpy(covariance).to(dtype)).numpy()
        error = np.linalg.norm(found - expected, axis=(1, 2)) / np.linalg.norm(expected, axis=(1, 2))
        assert error.max() < tolerance * np.sqrt(np.linalg.cond(covariance).max())
        assert (np.triu(found, 1) == 0).all()


def test_a_matrix_that_is_no_covariance_is_told_of() -> None:
    covariance = torch.eye(3 * LEAF)
    covariance[-1, -1] = -1
    with pytest.raises(torch.linalg.LinAlgError):
        inverse_factor(covariance)


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_local_distances_do_not_depend_on_the_unit(size: float) -> None:
    fitted, asked = errors(12, seed=18), errors(3, seed=19)
    plain, scaled = (MahalanobisDistance(1, CHANNELS, LOCATIONS, local=True) for _ in range(2))
    fit(plain, [fitted])
    fit(scaled, [fitted * size])
    torch.testing.assert_close(
        scaled(asked * size, one_route(3)), plain(asked, one_route(3)), rtol=5e-3, atol=0
    )


@pytest.mark.parametrize("local", [False, True])
def test_normal_errors_have_a_root_mean_square_of_1_in_every_route(local: bool) -> None:
    distance = MahalanobisDistance(2, CHANNELS, LOCATIONS, local=local)
    for route, fitted in enumerate([errors(16, seed=20), errors(16, seed=21, scale=5.0, shift=1.0)]):
        fit(distance, [fitted], routes=[route])
        square = distance(fitted, one_route(16) + route, measured=True).square().mean()
        torch.testing.assert_close(square.sqrt(), torch.tensor(1.0), rtol=0.1, atol=0)


def test_shrinkage_is_oracle_approximating_where_it_is_not_given() -> None:
    num_images, locations, channels = 30, 4, 6
    rng = np.random.default_rng(27)
    spread = np.linspace(0.5, 2.0, channels)
    samples = rng.normal(size=(locations, num_images, channels)) * spread
    samples[0, :, 0] *= 4.0  # one location has a covariance of its own
    covariances = np.stack([np.cov(place.T, bias=True) for place in samples])
    target = covariances.mean(0)
    values, vectors = np.linalg.eigh(target + RIDGE * np.diag(target).mean() * np.eye(channels))
    expected = []
    for covariance in covariances:
        white = vectors.T @ covariance @ vectors / np.sqrt(np.outer(values, values))
        trace, trace_of_square = np.trace(white), np.trace(white @ white)
        numerator = (1 - 2 / channels) * trace_of_square + trace**2
        denominator = (num_images + 1 - 2 / channels) * (trace_of_square - trace**2 / channels)
        expected.append(min(numerator / denominator, 1.0))
    found = oas_shrinkage(torch.from_numpy(covariances), torch.from_numpy(target), num_images)
    assert 0 < found < 1
    assert found == pytest.approx(np.mean(expected), rel=1e-9)


def test_an_estimated_shrinkage_is_used_by_the_distance() -> None:
    fitted, asked, routes = errors(30, seed=28), errors(3, seed=29), one_route(3)
    fitted[:, :, 1] *= 3
    estimated = MahalanobisDistance(1, CHANNELS, LOCATIONS, local=True)
    fit(estimated, [fitted])
    x_LnC = fitted.flatten(2).permute(2, 0, 1).double()
    x_LnC = x_LnC - x_LnC.mean(1, keepdim=True)
    covariance_LCC = x_LnC.mT @ x_LnC / 30
    shrinkage = oas_shrinkage(covariance_LCC, covariance_LCC.mean(0), 30)
    given = MahalanobisDistance(1, CHANNELS, LOCATIONS, local=True, shrinkage=shrinkage)
    fit(given, [fitted])
    torch.testing.assert_close(estimated(asked, routes), given(asked, routes), rtol=5e-3, atol=0)


def error_map(fitted: Tensor, **fields: object) -> ErrorMap:
    config = ErrorMapFields.model_validate({"map_distance": "local_mahalanobis"} | fields)
    made = ErrorMap(config, num_routes=1, channels=CHANNELS, grid_size=GRID, grid_stride=16)
    made.fit([0], pairs([fitted]))
    return made


def pairs(parts: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Errors, and features that they are twice as large as."""
    return ((error_BChw, error_BChw / 2) for error_BChw in parts)


def average(x: Tensor, reach: int = 1) -> Tensor:
    """Means over the neighbours that exist, up to `reach` locations away, one location after the other."""
    rows, columns = x.shape[2:]
    return torch.stack(
        [
            x[:, :, max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1].mean((2, 3))
            for i in range(rows)
            for j in range(columns)
        ],
        dim=-1,
    ).view_as(x)


def test_the_coarse_map_averages_errors_first() -> None:
    fitted, asked, routes = errors(20, seed=22), errors(3, seed=23), one_route(3)
    coarse = MahalanobisDistance(1, CHANNELS, LOCATIONS, local=True)
    fit(coarse, [average(fitted)])
    expected = coarse(average(asked), routes)
    fine = error_map(fitted)(asked, asked / 2, routes)[0][:, 0]

    maps_BAhw, scored_BUhw = error_map(fitted, map_coarse_weight=0.5)(asked, asked / 2, routes)
    torch.testing.assert_close(maps_BAhw[:, 0], fine + 0.5 * expected)
    assert torch.equal(scored_BUhw, maps_BAhw)

    maps_BAhw, scored_BUhw = error_map(fitted, score_from="coarse")(asked, asked / 2, routes)
    torch.testing.assert_close(maps_BAhw[:, 0], fine)
    torch.testing.assert_close(scored_BUhw[:, 0], expected)

    sources = ["both", "fine", "coarse", "map"]
    maps_BAhw, scored_BUhw = error_map(fitted, score_from=sources, map_norm_weight=1.0)(
        asked, asked / 2, routes
    )
    assert (maps_BAhw[:, 0] > fine).all()
    torch.testing.assert_close(
        scored_BUhw, torch.stack([fine + expected, fine, expected, maps_BAhw[:, 0]], dim=1)
    )


def test_a_finer_grid_is_averaged_over_more_locations() -> None:
    grid, generator = (12, 12), torch.Generator().manual_seed(0)
    fitted, asked = (torch.randn(n, CHANNELS, *grid, generator=generator) for n in (20, 3))
    config = ErrorMapFields(map_distance="local_mahalanobis", score_from="coarse")
    made = ErrorMap(config, num_routes=1, channels=CHANNELS, grid_size=grid, grid_stride=8)
    made.fit([0], pairs([fitted]))
    coarse = MahalanobisDistance(1, CHANNELS, 144, local=True)
    fit(coarse, [average(fitted, 2)])
    found, expected = made(asked, asked / 2, one_route(3))[1][:, 0], coarse(average(asked, 2), one_route(3))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_norm_is_added_in_units_of_normal_norms() -> None:
    fitted, asked, routes = errors(20, seed=25), errors(3, seed=26), one_route(3)
    fine = error_map(fitted)(asked, asked / 2, routes)[0][:, 0]
    norm = asked.norm(dim=1) / fitted.square().sum(1).mean().sqrt()
    maps_BAhw, scored_BUhw = error_map(fitted, map_norm_weight=2.0)(asked, asked / 2, routes)
    torch.testing.assert_close(maps_BAhw[:, 0], fine + 2 * norm)
    assert torch.equal(scored_BUhw, maps_BAhw)
    maps_BAhw, scored_BUhw = error_map(fitted, map_norm_weight=[0.0, 2.0], score_from="fine")(
        asked, asked / 2, routes
    )
    torch.testing.assert_close(maps_BAhw, torch.stack([fine, fine + 2 * norm], dim=1))
    torch.testing.assert_close(scored_BUhw[:, 0], fine)


def test_every_part_of_the_map_is_measured_for_all_routes_asked_for() -> None:
    fitted, asked = errors(20, seed=34, scale=14.0), errors(3, seed=35, scale=14.0)
    config = ErrorMapFields(map_distance="local_mahalanobis", map_norm_weight=1.0, score_from="coarse")
    made = ErrorMap(config, num_routes=3, channels=CHANNELS, grid_size=GRID, grid_stride=16)
    made.fit([0, 2], pairs(fitted.split(7)))
    first, untouched, last = (made(asked, asked / 2, one_route(3) + route) for route in range(3))
    for expected, found, other in zip(first, last, untouched, strict=True):
        assert torch.equal(found, expected)
        assert not torch.allclose(other, expected, rtol=0.1)


def test_the_distance_from_kept_features_is_added_to_map_and_score() -> None:
    fitted, asked, routes = errors(20, seed=27), errors(3, seed=28), one_route(3)
    fine, coarse = (
        error_map(fitted, score_from=source)(asked, asked / 2, routes)[1] for source in ("fine", "coarse")
    )
    distances = []
    for features_nChw, asked_BChw in ((fitted / 2, asked / 2), (average(fitted / 2), average(asked / 2))):
        codes = FeatureCodes(1, CHANNELS, 9)
        codes.add(features_nChw)
        codes.finish([0])
        distances.append(codes(asked_BChw, routes)[:, None])
    fields = {"feature_codes": 9, "map_code_weight": [0.0, 2.0], "score_from": ["codes", "fine"]}
    maps_BAhw, scored_BUhw = error_map(fitted, **fields, score_code_weight=3.0)(asked, asked / 2, routes)
    torch.testing.assert_close(maps_BAhw, torch.cat([fine, fine + 2 * distances[0]], dim=1))
    torch.testing.assert_close(scored_BUhw, torch.cat([fine + coarse + 3 * distances[1], fine], dim=1))


@pytest.mark.parametrize("grid_stride", [8, 16])
def test_patches_are_averages_over_three_locations_on_any_grid(grid_stride: int) -> None:
    """Where what is seen coarsely is wider, they have kept features of their own."""
    side = 14
    rng = torch.Generator().manual_seed(31)
    fitted, asked = (torch.randn(n, CHANNELS, side, side, generator=rng) for n in (12, 3))
    routes, weights = one_route(3), {"feature_codes": 9, "map_code_weight": 2.0, "map_coarse_weight": 0.5}

    def maps(features: Tensor, **fields: Any) -> Tensor:
        config = ErrorMapFields.model_validate({"map_distance": "mahalanobis", "score_from": "fine"} | fields)
        shape = {"channels": CHANNELS, "grid_size": (side, side), "grid_stride": grid_stride}
        made = ErrorMap(config, num_routes=1, **shape)  # type: ignore[arg-type]
        assert made.coarse_side == (3 if grid_stride == 16 else 7)
        made.fit([0], ((error, error / 2) for error in fitted.split(5)))
        assert (made.patch_codes is None) == (grid_stride == 16 or "map_from" not in fields)
        return made(asked, features, routes)[0]

    codes = FeatureCodes(1, CHANNELS, 9)
    codes.add(average(fitted / 2))
    codes.finish([0])
    expected = maps(asked / 2)[:, 0] + 2 * codes(average(asked / 2), routes)
    found = maps(asked / 2, **weights, map_from=["fine", "codes", "patches", "all"])
    torch.testing.assert_close(found[:, 2], expected)
    torch.testing.assert_close(
        found[:, [0, 1, 3]], maps(asked / 2, **weights, map_from=["fine", "codes", "all", "patches"])[:, :3]
    )
    assert not torch.allclose(found[:, 2], found[:, 1], atol=0.05)
    alone = maps(asked / 2, **weights, map_from="patches")
    torch.testing.assert_close(alone[:, 0], expected)


def test_features_are_kept_once_and_errors_are_measured_anew() -> None:
    fitted, asked, routes = errors(20, seed=29), errors(3, seed=30), one_route(3)
    made = error_map(fitted, feature_codes=9, map_code_weight=2.0)
    made.fit([0], ((2 * error_BChw, torch.full_like(error_BChw, torch.nan)) for error_BChw in [fitted]))
    expected = error_map(2 * fitted)(asked, asked / 2, routes)[0]
    assert made.fine_codes is not None
    expected = expected + 2 * made.fine_codes(asked / 2, routes)[:, None]
    torch.testing.assert_close(made(asked, asked / 2, routes)[0], expected)


@pytest.mark.parametrize(
    "fields",
    [
        {"map_norm_weight": 1.0},
        {"map_coarse_weight": 0.5},
        {"map_from": "fine"},
        {"score_from": "coarse"},
        {"feature_codes": 9},
    ],
)
def test_what_is_beside_a_distance_is_refused_without_one(fields: dict[str, object]) -> None:
    (name,) = fields
    with pytest.raises(ValueError, match=f"{name}: .* needs map_distance"):
        ErrorMapFields.model_validate(fields)


def test_a_score_of_a_map_that_is_still_to_be_chosen_is_refused() -> None:
    with pytest.raises(ValueError, match=r"score_from: .* take fine, coarse or both, or a single one"):
        ErrorMapFields(map_distance="mahalanobis", map_norm_weight=[0.0, 1.0], score_from=["fine", "map"])
    with pytest.raises(ValueError, match=r"of which map_code_weight \[0.0, 4.0\] leaves open"):
        ErrorMapFields(map_distance="mahalanobis", feature_codes=9, map_code_weight=[0.0, 4.0])
    with pytest.raises(ValueError, match=r"of which map_from \['fine', 'all'\] leaves open"):
        ErrorMapFields(map_distance="mahalanobis", map_coarse_weight=0.5, map_from=["fine", "all"])
    for source in ("codes", "patches"):
        with pytest.raises(
            ValueError, match=f"map_from: {source} needs feature_codes and a map_code_weight above 0"
        ):
            ErrorMapFields(map_distance="mahalanobis", feature_codes=9, map_from=source)
    with pytest.raises(ValueError, match=r"score_from: codes needs feature_codes; set it"):
        ErrorMapFields(map_distance="mahalanobis", score_from="codes")
    config = ErrorMapFields(
        map_distance="mahalanobis", map_code_weight=[0.0, 4.0], score_from=["fine", "codes"]
    )
    assert (config.map_weights(), config.score_sources()) == ([("all", 0.0, 0.0, 0.0, 0.0)], ["fine"])
    with pytest.raises(ValueError, match="names a weight twice"):
        ErrorMapFields(map_distance="mahalanobis", map_norm_weight=[1.0, 1.0], score_from="fine")


def test_what_comes_to_the_same_map_is_tried_once() -> None:
    def weights(**fields: Any) -> list[tuple[object, ...]]:
        given = {"map_from": ["fine", "codes", "patches", "all"], "score_from": "fine"} | fields
        return [*map(tuple, ErrorMapFields(map_distance="mahalanobis", **given).map_weights())]

    codes = {"feature_codes": 9, "map_code_weight": 4.0}
    three = [("fine", 0, 0, 0, 0), ("codes", 0, 4, 0, 0), ("patches", 0, 0, 4, 0)]
    assert weights(**codes, map_coarse_weight=0.5) == [*three, ("all", 0, 4, 0, 0.5)]
    assert weights(**codes) == three
    assert weights(map_coarse_weight=0.5) == [("fine", 0, 0, 0, 0), ("all", 0, 0, 0, 0.5)]
    normed = weights(map_norm_weight=[0.0, 1.0], map_from="fine")
    assert normed == [("fine", 0, 0, 0, 0), ("fine", 1, 0, 0, 0)]
    several = codes | {"map_code_weight": [0.0, 4.0], "map_coarse_weight": 0.5, "map_from": "all"}
    assert weights(**several) == [("all", 0, 0, 0, 0.5), ("all", 0, 4, 0, 0.5)]


def test_averaged_features_are_kept_only_where_map_or_score_want_them() -> None:
    codes = {"map_distance": "mahalanobis", "feature_codes": 9, "map_code_weight": 4.0}
    fields = [{}, {"map_coarse_weight": 0.5}, {"map_coarse_weight": 0.5, "map_from": "codes"}]
    found = [ErrorMapFields.model_validate(codes | each) for each in fields]
    assert [config.keeps_coarse_features() for config in found] == [False, True, False]
    assert [config.measures_coarse() for config in found] == [False, True, False]
    assert ErrorMapFields.model_validate(codes | {"score_from": "codes"}).keeps_coarse_features()
    averaged = {"map_distance": "mahalanobis", "map_coarse_weight": 0.5}
    assert not ErrorMapFields.model_validate(averaged).keeps_coarse_features()


def test_the_l2_norm_needs_no_normal_images() -> None:
    made = ErrorMap(ErrorMapFields(), num_routes=2, channels=CHANNELS, grid_size=GRID, grid_stride=16)
    made.fit([0, 1], (pytest.fail("asked for images") for _ in range(1)))
    asked = errors(2, seed=24)
    assert not made.state_dict()
    for found in made(asked, asked / 2, one_route(2)):
        torch.testing.assert_close(found, asked.norm(dim=1, keepdim=True))
