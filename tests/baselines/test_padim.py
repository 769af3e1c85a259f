"""PaDiM against scikit-learn's Mahalanobis distance, location by location."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance

from hvqray.baselines import padim
from hvqray.baselines.padim import Padim


def features(num: int, *, channels: int = 5, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, channels, 3, 2, generator=generator) * torch.arange(1, channels + 1).view(
        -1, 1, 1
    )


@pytest.mark.parametrize("block_bytes", [1, 256 * 2**20])
def test_distance_is_that_of_scikit_learn(monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(padim, "_BLOCK_BYTES", block_bytes)
    train, test = features(20), features(4, seed=1)
    model = Padim()
    model.fit(train)
    map_Bhw, scores = model.predict(test)
    assert not scores
    for row, column in np.ndindex(3, 2):
        x, y = train[:, :, row, column].double().numpy(), test[:, :, row, column].double().numpy()
        reference = EmpiricalCovariance()
        reference.location_ = x.mean(0)
        reference.precision_ = np.linalg.inv(np.cov(x, rowvar=False) + 0.01 * np.eye(5))
        expected = np.sqrt(reference.mahalanobis(y))
        np.testing.assert_allclose(map_Bhw[:, row, column], expected, rtol=1e-4)


def test_a_neighbourhood_is_averaged_as_far_as_it_lies_on_the_grid() -> None:
    train, test = features(20), features(4, seed=1)
    means = []
    for x in (train, test):
        mean = torch.zeros_like(x)
        for row, column in np.ndindex(3, 2):
            around = x[:, :, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            mean[:, :, row, column] = around.mean((2, 3))
        means.append(mean)
    plain, averaged = Padim(), Padim(neighbourhood=3)
    plain.fit(means[0])
    averaged.fit(train)
    torch.testing.assert_close(averaged.predict(test)[0], plain.predict(means[1])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num", [1, 2])
def test_fewer_images_than_channels_still_give_a_distance(num: int) -> None:
    model = Padim()
    model.fit(features(num).half())
    map_Bhw, _ = model.predict(features(3, seed=1))
    assert map_Bhw.isfinite().all()
    assert (map_Bhw > 0).all()


def test_one_image_leaves_the_plain_distance() -> None:
    """Its covariance is 0.01 I alone, so the distance is ten times the Euclidean one."""
    train, test = features(1), features(1, seed=1)
    model = Padim()
    model.fit(train)
    torch.testing.assert_close(model.predict(test)[0], 10 * (test - train).norm(dim=1), rtol=1e-5, atol=1e-5)


def test_many_channels_are_thinned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padim, "MAX_CHANNELS", 3)
    kept = []
    for seed in (0, 0, 1):
        model = Padim(seed=seed)
        model.fit(features(10, channels=40))
        assert model.whitening_LDD.shape == (6, 3, 3)
        kept.append(model.channels_D.tolist())
    assert kept[0] == kept[1] != kept[2]
    assert len(set(kept[0])) == 3
