"""Feature statistics."""

from __future__ import annotations

import pytest
import torch

from hvqray.models.batch import Batch
from hvqray.models.random_stream import RandomStream
from hvqray.models.standardize import FeatureStandardizer


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 50.0, 1e-3])[:, None, None]
    sizes = [4, 1, 7]
    return [
        Batch(1000 + scale * torch.randn(n, 3, 5, 5, generator=generator), torch.zeros(n, dtype=torch.int64))
        for n in sizes
    ]


def test_standardized_training_features_have_mean_0_and_deviation_1() -> None:
    standardizer = FeatureStandardizer(3)
    standardizer.fit(batches())
    out = standardizer(torch.cat([batch.features_BChw for batch in batches()]))
    # Channel 2 is resolved to a few float32 steps only, at this offset.
    torch.testing.assert_close(out[:, :2].mean((0, 2, 3)), torch.zeros(2), atol=2e-3, rtol=0)
    torch.testing.assert_close(out.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-3, rtol=0)


def test_constant_channel_is_only_centred() -> None:
    standardizer = FeatureStandardizer(1)
    standardizer.fit([Batch(torch.full((2, 1, 3, 3), 7.0), torch.zeros(2, dtype=torch.int64))])
    assert torch.equal(standardizer(torch.full((1, 1, 2, 2), 9.0)), torch.full((1, 1, 2, 2), 2.0))


def test_disabled_is_the_identity_and_noise_is_in_units_of_the_channel() -> None:
    enabled, disabled = FeatureStandardizer(3), FeatureStandardizer(3, enabled=False)
    for standardizer in (enabled, disabled):
        standardizer.fit(batches())
    x = torch.zeros(400, 3, 5, 5)
    assert torch.equal(disabled(x), x)
    noise_std = disabled.add_noise(x, 0.5, RandomStream()).std((0, 2, 3))
    torch.testing.assert_close(noise_std, 0.5 * disabled.std_C, rtol=0.05, atol=0)
    assert enabled.add_noise(x, 0.5, RandomStream()).std().item() == pytest.approx(0.5, rel=0.05)


def test_no_images_is_refused() -> None:
    with pytest.raises(AssertionError, match="no images"):
        FeatureStandardizer(3).fit([])
