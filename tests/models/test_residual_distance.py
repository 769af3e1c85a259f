"""The Mahalanobis distance of errors, against scikit-learn's covariance and SciPy's distance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance
from torch import Tensor

from hvqray.models.residual_distance import SHRINKAGE, MahalanobisDistance

CHANNELS, GRID = 5, (3, 4)


def errors(num_images: int, *, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Correlated errors, (num_images, CHANNELS, *GRID)."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(CHANNELS, CHANNELS)) * scale
    noise = rng.normal(size=(num_images, *GRID, CHANNELS))
    return torch.from_numpy((noise @ mixing + shift).transpose(0, 3, 1, 2)).float()


def expected_distance(fitted: Tensor, asked: Tensor) -> np.ndarray:
    """One location after the other, (B, h, w)."""
    rows = fitted.permute(0, 2, 3, 1).reshape(-1, CHANNELS).double().numpy()
    covariance = EmpiricalCovariance().fit(rows)
    ridge = SHRINKAGE * np.diag(covariance.covariance_).mean() * np.eye(CHANNELS)
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


def one_route(num_images: int) -> Tensor:
    return torch.zeros(num_images, dtype=torch.int64)


def test_equals_the_textbook_distance_however_the_images_are_batched() -> None:
    fitted, asked = errors(20, seed=0, shift=2.0), errors(4, seed=1)
    distance = MahalanobisDistance(1, CHANNELS)
    distance.fit((part, one_route(len(part))) for part in fitted.split([7, 12, 1]))
    found = distance(asked, one_route(4))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected_distance(fitted, asked), rtol=1e-4)


def test_each_route_has_a_distribution_of_its_own() -> None:
    first, second, asked = errors(9, seed=2), errors(6, seed=3, scale=9.0, shift=4.0), errors(2, seed=4)
    distance = MahalanobisDistance(3, CHANNELS)
    mixed = torch.cat([first, second])[torch.randperm(15, generator=torch.Generator().manual_seed(0))]
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    distance.fit([(mixed, (order >= 9).long())])
    for route, fitted in enumerate((first, second)):
        found = distance(asked, torch.full((2,), route))
        np.testing.assert_allclose(found.numpy(), expected_distance(fitted, asked), rtol=1e-4)
    together = distance(asked, torch.tensor([1, 0]))
    np.testing.assert_allclose(together[0].numpy(), expected_distance(second, asked[:1])[0], rtol=1e-4)
    np.testing.assert_allclose(together[1].numpy(), expected_distance(first, asked[1:])[0], rtol=1e-4)


def test_a_route_without_images_keeps_what_it_had() -> None:
    asked = errors(2, seed=5)
    distance = MahalanobisDistance(2, CHANNELS)
    distance.fit([(errors(5, seed=6), one_route(5))])
    torch.testing.assert_close(distance(asked, torch.ones(2, dtype=torch.int64)), asked.norm(dim=1))


def test_a_second_fit_forgets_the_first() -> None:
    fitted, asked = errors(8, seed=7), errors(2, seed=8)
    distance = MahalanobisDistance(1, CHANNELS)
    distance.fit([(errors(8, seed=9, scale=5.0, shift=3.0), one_route(8))])
    distance.fit([(fitted, one_route(8))])
    np.testing.assert_allclose(
        distance(asked, one_route(2)).numpy(), expected_distance(fitted, asked), rtol=1e-4
    )


@pytest.mark.parametrize("flaw", ["fewer locations than channels", "no error at all"])
def test_a_singular_covariance_gives_finite_distances(flaw: str) -> None:
    fitted = errors(1, seed=10)[:, :, :1, :2] if flaw.startswith("fewer") else torch.zeros(3, CHANNELS, *GRID)
    distance = MahalanobisDistance(1, CHANNELS)
    distance.fit([(fitted, one_route(len(fitted)))])
    assert distance(errors(2, seed=11), one_route(2)).isfinite().all()


def test_autocast_changes_nothing() -> None:
    fitted, asked = errors(10, seed=12, shift=30.0), errors(3, seed=13, shift=30.0)
    plain, cast = MahalanobisDistance(1, CHANNELS), MahalanobisDistance(1, CHANNELS)
    plain.fit([(fitted, one_route(10))])
    expected = plain(asked, one_route(3))
    with torch.autocast("cpu", torch.bfloat16):
        cast.fit([(fitted, one_route(10))])
        found = cast(asked, one_route(3))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_its_state_travels_with_the_model() -> None:
    source, target = MahalanobisDistance(2, CHANNELS), MahalanobisDistance(2, CHANNELS)
    source.fit([(errors(6, seed=14), torch.tensor([0, 1] * 3))])
    target.load_state_dict(source.state_dict())
    asked = errors(2, seed=15)
    assert torch.equal(target(asked, one_route(2)), source(asked, one_route(2)))
