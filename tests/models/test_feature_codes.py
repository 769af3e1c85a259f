"""The distance from kept normal features, against scikit-learn's nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from hvqray.models import feature_codes
from hvqray.models.coreset import greedy_coreset
from hvqray.models.feature_codes import FEATURES_PER_CODE, FeatureCodes
from hvqray.models.memo import Memo

CHANNELS, GRID = 6, (3, 4)
LOCATIONS = GRID[0] * GRID[1]


def features(num_images: int, *, seed: int, scale: float = 1.0) -> Tensor:
    """Values that half precision holds, so that codes are exactly features."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(num_images, CHANNELS, *GRID, generator=generator)).half().float()


def tokens(features_BChw: Tensor) -> np.ndarray:
    """(B * L, C), image by image."""
    return features_BChw.flatten(2).mT.flatten(0, 1).double().numpy()


def fitted(
    parts: Sequence[Tensor], num_codes: int, *, num_routes: int = 1, routes: Sequence[int] = (0,)
) -> FeatureCodes:
    made = FeatureCodes(num_routes, CHANNELS, num_codes)
    for features_BChw in parts:
        made.add(features_BChw)
    made.finish(routes)
    return made


def routed(num_images: int, route: int = 0) -> Tensor:
    return torch.full((num_images,), route)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_codes, "_KNOWN", Memo(most=1024, size=lambda _: 1))


def test_it_is_the_distance_from_the_nearest_of_a_greedy_coreset() -> None:
    normal, asked = features(10, seed=0), features(4, seed=1)
    made = fitted([normal], 30)
    kept = tokens(normal)[greedy_coreset(torch.from_numpy(tokens(normal)).float(), 30, seed=0).numpy()]
    expected, _ = NearestNeighbors(n_neighbors=1).fit(kept).kneighbors(tokens(asked))
    found = made(asked, routed(4)) * made.rms_R[0]
    assert found.shape == (4, *GRID)
    np.testing.assert_allclose(found.flatten().numpy(), expected[:, 0], rtol=1e-4)


def test_its_unit_is_what_images_have_from_codes_of_others() -> None:
    normal = features(10, seed=2)
    made = fitted([normal], 30)
    codes, every = made.codes_RKC[0].double().numpy(), tokens(normal)
    squares = []
    for image in range(10):
        own = every[image * LOCATIONS : (image + 1) * LOCATIONS]
        others = [code for code in codes if not (own == code).all(1).any()]
        apart = np.linalg.norm(own[:, None] - np.array(others), axis=2).min(1)
        squares.append(np.square(apart).mean())
    assert made.rms_R[0].item() == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-4)


@pytest.mark.parametrize("offset", [100.0, 1000.0])
def test_a_common_offset_does_not_change_the_unit(offset: float) -> None:
    """As raw features of a channel with a large, nearly constant activation have it."""
    normal = features(10, seed=2)
    unit = fitted([normal], 30).rms_R[0].item()
    shifted = fitted([(normal + offset).half().float()], 30).rms_R[0].item()
    assert shifted == pytest.approx(unit, rel=0.05)  # rounded to half precision, as codes are


def test_normal_images_that_codes_came_from_are_judged_as_others_would_be() -> None:
    normal = features(10, seed=3)
    made = fitted([normal], 30)
    as_others = made(normal, routed(10), measured=True)
    assert as_others.square().mean().sqrt().item() == pytest.approx(1, rel=1e-3)
    assert made(normal, routed(10)).square().mean().sqrt() < 0.95


def test_batches_do_not_matter_and_of_many_features_a_fair_sample_is_kept() -> None:
    normal = torch.cat([features(40, seed=4), features(40, seed=5) + 100])
    num_codes = 20
    assert FEATURES_PER_CODE * num_codes < len(normal) * LOCATIONS
    one, other = fitted([normal], num_codes), fitted(normal.split([1, 30, 49]), num_codes)
    assert torch.equal(one.codes_RKC, other.codes_RKC)
    assert torch.equal(one.rms_R, other.rms_R)
    is_of_second = one.codes_RKC[0, :, 0].float() > 50
    assert 5 <= int(is_of_second.sum()) <= 15


def test_every_route_has_codes_of_its_own() -> None:
    first, second, asked = features(6, seed=6), features(5, seed=7, scale=9.0), features(2, seed=8)
    made = fitted([first], 12, num_routes=4, routes=[0, 3])
    assert [made.has(asked_for) for asked_for in ([0], [3, 0], [0, 1])] == [True, True, False]
    made.add(second)
    made.finish([1])
    for route, normal in ((0, first), (1, second), (3, first)):
        expected = fitted([normal], 12)(asked, routed(2))
        torch.testing.assert_close(made(asked, routed(2, route)), expected)
    mixed = made(asked, torch.tensor([1, 0]))
    torch.testing.assert_close(mixed[:1], made(asked[:1], routed(1, 1)))
    torch.testing.assert_close(mixed[1:], made(asked[1:], routed(1, 0)))


@pytest.mark.parametrize("num_codes", [5, 50])
def test_the_unit_of_a_single_image_is_what_its_features_have_from_its_others(num_codes: int) -> None:
    normal = features(1, seed=14)
    made = fitted([normal], num_codes)
    every = tokens(normal)
    codes = np.unique(made.codes_RKC[0].double().numpy(), axis=0)
    apart = np.linalg.norm(every[:, None] - codes, axis=2)
    apart[apart == 0] = np.inf
    assert made.rms_R[0].item() == pytest.approx(np.sqrt(np.square(apart.min(1)).mean()), rel=1e-4)


@pytest.mark.parametrize("num_images", [1, 2])
def test_fewer_features_than_codes_are_all_kept(num_images: int) -> None:
    normal = features(num_images, seed=9)
    made = fitted([normal], 50)
    assert {tuple(code) for code in made.codes_RKC[0].tolist()} == {
        tuple(row) for row in tokens(normal).tolist()
    }
    assert made(normal, routed(num_images)).abs().max() < 1e-3 / made.rms_R[0]
    assert 0.3 < made(features(2, seed=10), routed(2)).square().mean().sqrt() < 3


def test_features_that_are_all_equal_give_finite_distances() -> None:
    for num_images in (1, 3):
        normal = features(1, seed=15)[:, :, :1, :1].expand(num_images, -1, *GRID)
        made = fitted([normal], 5)
        assert made(normal, routed(num_images), measured=True).isfinite().all()
        assert made(features(2, seed=16), routed(2)).isfinite().all()
    one = FeatureCodes(1, CHANNELS, 2)
    one.add(features(1, seed=17)[:, :, :1, :1])
    one.finish([0])
    assert one(features(2, seed=18), routed(2)).isfinite().all()


def test_autocast_changes_nothing() -> None:
    normal, asked = features(10, seed=11), features(3, seed=12)
    expected = fitted([normal], 30)
    with torch.autocast("cpu", torch.bfloat16):
        made = fitted([normal], 30)
        found = made(asked, routed(3))
    assert torch.equal(made.codes_RKC, expected.codes_RKC)
    assert torch.equal(found, expected(asked, routed(3)))


def test_a_process_chooses_among_the_same_features_once(monkeypatch: pytest.MonkeyPatch) -> None:
    normal = features(10, seed=13)
    expected = fitted([normal], 30)
    with monkeypatch.context() as patch:
        patch.setattr(feature_codes, "greedy_coreset", lambda *_, **__: pytest.fail("chose again"))
        assert torch.equal(fitted([normal], 30).codes_RKC, expected.codes_RKC)
    monkeypatch.setattr(feature_codes, "_KNOWN", Memo(most=2, size=lambda _: 1))
    for seed in range(4):
        fitted([features(10, seed=20 + seed)], 30)
    assert len(feature_codes._KNOWN) == 2
    # Another number of the same features is another choice.
    assert len(fitted([features(10, seed=23)], 31).codes_RKC[0].unique(dim=0)) == 31
