"""The padding of TensorFlow's convolutions, which depends on the size of the image, fixed to that of one size.

timm pads the strided convolutions of its `tf_` models so that an output has ceil(input / stride) locations, with what is
odd on the right and at the bottom. The HVQ-Trans code pads by the same rule, but for the backbone's own image size,
whatever the image's is: at 224 px that makes a difference in one layer of EfficientNet-B4, whose own size is 380 px.
"""

from __future__ import annotations

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import get_same_padding
from torch import Tensor, nn


@torch.no_grad()
def fix_padding(network: nn.Module, *, image_size: int) -> bool:
    """Pads every such convolution at all sizes as timm does for square images of `image_size` pixels.

    Returns whether there was any.
    """
    names = [name for name, module in network.named_modules() if isinstance(module, Conv2dSame)]
    sides: dict[str, int] = {}

    def remember(name: str, x_BCss: Tensor) -> None:
        sides[name] = x_BCss.shape[-1]

    handles = [
        network.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: remember(name, x[0]))
        for name in names
    ]
    network(torch.zeros(1, 3, image_size, image_size))
    for handle in handles:
        handle.remove()
    for name, side in sides.items():
        parent, _, child = name.rpartition(".")
        convolution = network.get_submodule(name)
        assert isinstance(convolution, Conv2dSame)
        setattr(network.get_submodule(parent), child, _padded(convolution, side))
    return bool(sides)


def _padded(convolution: Conv2dSame, side: int) -> nn.Sequential:
    """The convolution after the zeros that timm would put around an input of this side."""
    total = get_same_padding(side, convolution.kernel_size[0], convolution.stride[0], convolution.dilation[0])
    before, after = total // 2, total - total // 2
    plain = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,
        convolution.stride,
        dilation=convolution.dilation,
        groups=convolution.groups,
        bias=convolution.bias is not None,
    )
    plain.load_state_dict(convolution.state_dict())
    return nn.Sequential(nn.ZeroPad2d((before, after, before, after)), plain.requires_grad_(False))
