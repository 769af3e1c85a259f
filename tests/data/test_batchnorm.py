"""Batch norms: folding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hvqray.data.batchnorm import fold_batchnorms


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.other = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.norm(self.conv(x))
        return [y, self.other(y.relu())]


class Shortcut(Plain):
    """The convolution's output also goes around its norm, so folding would change the result."""

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.conv(x)
        return [y + self.norm(y)]


def randomise(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.copy_(torch.rand(4, generator=generator) + 0.5)
    return network.eval()


def test_folds_only_what_a_convolution_feeds() -> None:
    network = randomise(Plain())
    x = torch.randn(2, 3, 8, 8)
    folded = fold_batchnorms(network, x[:1])
    assert isinstance(folded.norm, nn.Identity)
    assert isinstance(folded.other, nn.BatchNorm2d)
    for before, after in zip(network(x), folded(x), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_keeps_a_network_that_folding_would_change() -> None:
    network = randomise(Shortcut())
    x = torch.randn(1, 3, 8, 8)
    folded = fold_batchnorms(network, x)
    assert isinstance(folded.norm, nn.BatchNorm2d)
    torch.testing.assert_close(folded(x), network(x))
