"""The discriminator, its loss, and the weight of its say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hvqray.models.patchgan import PatchDiscriminator, adaptive_weight, hinge_loss


@pytest.fixture
def discriminator() -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(8)


def test_every_patch_is_judged_by_what_lies_in_it(discriminator: PatchDiscriminator) -> None:
    image = torch.zeros(1, 3, 56, 56, requires_grad=True)
    judgement = discriminator.eval()(image)
    assert judgement.shape == (1, 14, 14)
    (gradient,) = torch.autograd.grad(judgement[0, 7, 7], image)
    rows = gradient.abs().sum((0, 1, 3)).nonzero()
    # The patch of row 7 is 26 pixels wide and centred on pixels 28 to 31.
    assert (rows.min().item(), rows.max().item()) == (17, 42)


@pytest.mark.parametrize(("stage", "stride"), [(0, 2), (1, 4), (2, 4)])
def test_what_a_stage_sees_is_centred_on_its_location_s_cell(
    discriminator: PatchDiscriminator, stage: int, stride: int
) -> None:
    image = torch.zeros(1, 3, 56, 56, requires_grad=True)
    features = discriminator.eval().features(image)[stage]
    (gradient,) = torch.autograd.grad(features[0, :, 6, 6].sum(), image)
    rows = gradient.abs().sum((0, 1, 3)).nonzero()
    assert (rows.min() + rows.max()).item() / 2 == 6 * stride + (stride - 1) / 2


def test_spectral_norm_bounds_every_layer(discriminator: PatchDiscriminator) -> None:
    layers = [module for module in discriminator.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(layers) == 4
    with torch.no_grad():
        for layer in layers:
            for weight in layer.parameters():
                weight.mul_(50)
        for _ in range(100):
            discriminator(torch.zeros(1, 3, 16, 16))
    discriminator.eval()
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() == pytest.approx(1, rel=0.01)


def test_hinge_loss_is_satisfied_beyond_the_margin() -> None:
    assert hinge_loss(torch.tensor([1.0, 5.0]), torch.tensor([-1.0, -3.0])).item() == 0
    assert hinge_loss(torch.tensor([0.0, 5.0]), torch.tensor([1.0, -3.0])).item() == 0.75


def test_adaptive_weight_is_the_ratio_of_norms_and_bounded() -> None:
    def weight(image: list[float], adversarial: list[float]) -> float:
        return adaptive_weight(
            torch.tensor(image), torch.tensor(adversarial), num_images=3, all_reduce_sum_=lambda x: x
        ).item()

    assert weight([3.0, 4.0], [0.0, 10.0]) == pytest.approx(0.5, rel=1e-4)
    assert weight([3.0, 4.0], [0.0, 0.0]) == 1e4
    assert weight([0.0, 0.0], [0.0, 1.0]) == 0


def test_ranks_with_uneven_shares_agree_on_the_weight_of_the_whole_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    per_image = torch.randn(5, 2, 30, generator=generator)
    shares = [per_image[:4], per_image[4:]]
    sent: list[Tensor] = []

    def record(tensor: Tensor) -> Tensor:
        sent.append(tensor.clone())
        return tensor

    def weight(share: Tensor, all_reduce_sum_: object) -> float:
        image, adversarial = share.mean(0)
        return adaptive_weight(
            image, adversarial, num_images=len(share), all_reduce_sum_=all_reduce_sum_
        ).item()

    for share in shares:
        weight(share, record)
    together = weight(per_image, lambda x: x)
    for share in shares:
        assert weight(share, lambda _: sent[0] + sent[1]) == pytest.approx(together, rel=1e-5)
