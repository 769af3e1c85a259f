"""PatchCore against a literal implementation in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from hvqray.baselines import patchcore
from hvqray.baselines.patchcore import PatchCore


def features(num: int, *, channels: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, channels, 4, 5, generator=torch.Generator().manual_seed(seed))


def literal_patches(x_nChw: np.ndarray, side: int) -> np.ndarray:
    """(n, h, w, C) means over the part of the neighbourhood that lies on the grid."""
    n, channels, height, width = x_nChw.shape
    reach = side // 2
    out = np.empty((n, height, width, channels))
    for row, column in np.ndindex(height, width):
        rows = slice(max(0, row - reach), row + reach + 1)
        columns = slice(max(0, column - reach), column + reach + 1)
        out[:, row, column] = x_nChw[:, :, rows, columns].mean((2, 3))
    return out


@pytest.mark.parametrize("side", [1, 3])
def test_map_and_score_follow_the_paper(side: int) -> None:
    test = features(5, seed=1)
    model = PatchCore(neighbourhood=side)
    model.fit(features(12))
    memory = model.memory_KD.double().numpy()
    map_Bhw, scores = model.predict(test)

    patches = literal_patches(test.double().numpy(), side)
    distance, index = NearestNeighbors(n_neighbors=1).fit(memory).kneighbors(patches.reshape(-1, 6))
    np.testing.assert_allclose(map_Bhw, distance.reshape(5, 4, 5), rtol=1e-4)
    for image in range(5):
        at = int(distance.reshape(5, -1)[image].argmax())
        star = memory[index.reshape(5, -1)[image, at]]
        query = patches[image].reshape(-1, 6)[at]
        order = np.argsort(np.linalg.norm(memory - star, axis=1))[:9]
        s = np.linalg.norm(query - star)
        weight = 1 - math.exp(s) / sum(math.exp(np.linalg.norm(query - memory[m])) for m in order)
        assert float(scores["reweighted"][image]) == pytest.approx(weight * s, rel=1e-4)


@pytest.mark.parametrize("side", [1, 3])
def test_memory_is_a_tenth_of_the_normal_patches(side: int) -> None:
    train = features(12)
    model = PatchCore(neighbourhood=side)
    model.fit(train.half())
    patches = literal_patches(train.half().double().numpy(), side).reshape(-1, 6)
    assert model.memory_KD.shape == (24, 6)
    distance, _ = NearestNeighbors(n_neighbors=1).fit(patches).kneighbors(model.memory_KD.double().numpy())
    assert distance.max() < 1e-5


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patchcore, "MAX_PATCHES", 7)
    monkeypatch.setattr(patchcore, "MAX_CHANNELS", 3)
    model = PatchCore()
    model.fit(features(12))
    assert model.memory_KD.shape == (7, 3)
    assert model.predict(features(2, seed=1))[0].shape == (2, 4, 5)


def test_many_channels_are_averaged_in_groups_of_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = features(12), features(2, seed=1)
    monkeypatch.setattr(patchcore, "MAX_CHANNELS", 3)
    model, of_means = PatchCore(), PatchCore()
    model.fit(train)
    of_means.fit(train.unflatten(1, (3, 2)).mean(2))
    map_Bhw, _ = model.predict(test)
    torch.testing.assert_close(map_Bhw, of_means.predict(test.unflatten(1, (3, 2)).mean(2))[0])


def test_all_training_images_are_looked_at() -> None:
    """However many blocks they are taken in: the one that is like no other is remembered."""
    train = features(70)
    train[-1] += 100
    model = PatchCore(neighbourhood=1)
    model.fit(train)
    assert model.memory_KD.shape == (140, 6)
    assert bool((model.memory_KD > 50).any())


def test_a_memory_of_one_patch_scores_by_distance() -> None:
    model = PatchCore()
    model.fit(features(1)[:, :, :2, :2])
    assert len(model.memory_KD) == 1
    map_Bhw, scores = model.predict(features(3, seed=1))
    torch.testing.assert_close(scores["reweighted"], map_Bhw.amax((1, 2)))


def test_distances_far_beyond_the_exponential_stay_finite() -> None:
    model = PatchCore()
    model.fit(features(12))
    assert model.predict(1e4 * features(2, seed=1))[1]["reweighted"].isfinite().all()
