"""Routes, and class prototypes against scikit-learn's nearest centroid."""

from __future__ import annotations

import torch
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

from hvqray.models.batch import Batch
from hvqray.models.router import Router


def batches(num_classes: int = 3) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0], [0, 30], [2, 0]])
    classes = [torch.randint(num_classes, (8,), generator=generator) for _ in range(5)]
    scale = torch.tensor([1.0, 30.0])[:, None, None]  # unscaled, the second channel would rule
    return [
        Batch(centres[y][:, :, None, None] + scale * torch.randn(8, 2, 4, 4, generator=generator), y)
        for y in classes
    ]


def test_predicted_route_is_the_nearest_centroid_of_standardized_pooled_features() -> None:
    router = Router("predicted", num_classes=3, channels=2)
    router.fit(batches)
    router.eval()
    x = torch.cat([batch.features_BChw for batch in batches()]).double()
    y = torch.cat([batch.class_index_B for batch in batches()])
    scaler = StandardScaler().fit(x.movedim(1, -1).flatten(0, 2).numpy())
    pooled = scaler.transform(x.mean((2, 3)).numpy())
    expected = NearestCentroid().fit(pooled, y.numpy()).predict(pooled)
    seen = router(x.float(), torch.zeros_like(y))
    assert seen.tolist() == expected.tolist()
    assert (seen == y).float().mean() > 0.8


def test_training_takes_the_true_class() -> None:
    router = Router("predicted", num_classes=3, channels=2)
    router.fit(batches)
    batch = batches()[0]
    assert torch.equal(router(batch.features_BChw, batch.class_index_B), batch.class_index_B)


def test_class_without_training_images_is_never_predicted() -> None:
    router = Router("predicted", num_classes=4, channels=2)
    router.fit(lambda: batches(2))
    router.eval()
    seen = torch.cat([router(batch.features_BChw, batch.class_index_B) for batch in batches()])
    assert set(seen.tolist()) <= {0, 1}


def test_oracle_and_none() -> None:
    batch = batches()[0]
    for mode, num_routes, expected in (
        ("oracle", 3, batch.class_index_B),
        ("none", 1, torch.zeros(8).long()),
    ):
        router = Router(mode, num_classes=3, channels=2).eval()
        router.fit(batches)
        assert router.num_routes == num_routes
        assert not router.state_dict()
        assert torch.equal(router(batch.features_BChw, batch.class_index_B), expected)
