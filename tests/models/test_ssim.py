"""SSIM against scikit-image."""

from __future__ import annotations

import numpy as np
import torch
from skimage.metrics import structural_similarity

from hvqray.models.ssim import ssim_map


def images(height: int = 40, width: int = 27) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, height, width, generator=generator)
    y = (x + 0.4 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    return x, y


def test_equals_scikit_image_up_to_the_border() -> None:
    x, y = images()
    ours = ssim_map(x, y).numpy()
    assert ours.shape == (2, 40, 27)
    for index in range(2):
        _, expected = structural_similarity(
            x[index].double().numpy(),
            y[index].double().numpy(),
            data_range=1.0,
            channel_axis=0,
            gaussian_weights=True,
            use_sample_covariance=False,
            full=True,
        )
        np.testing.assert_allclose(ours[index], expected.mean(0), atol=1e-5)


def test_equal_images_are_wholly_similar_and_opposite_ones_are_not() -> None:
    x, _ = images()
    torch.testing.assert_close(ssim_map(x, x), torch.ones(2, 40, 27))
    assert ssim_map(x, 1 - x).mean() < -0.5


def test_autocast_changes_nothing_and_a_gradient_arrives() -> None:
    x, y = images()
    plain = ssim_map(x, y)
    y.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = ssim_map(x, y)
    assert torch.equal(plain, mixed)
    mixed.mean().backward()
    assert y.grad is not None
    assert y.grad.abs().sum() > 0
