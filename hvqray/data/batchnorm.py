"""Batch norms of a frozen network: their statistics re-estimated, saved and set, and folded into convolutions."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_weights


@contextmanager
def batchnorms_in_training(network: nn.Module) -> Iterator[None]:
    """Forgets the batch norms' statistics and, inside the block, averages those of each batch that passes."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.training = True
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.training = False


def batchnorm_state(network: nn.Module) -> dict[str, np.ndarray]:
    """Running means and variances by name, of a network that is not folded."""
    state = network.state_dict()
    return {name: value.cpu().numpy() for name, value in state.items() if "running_" in name}


def set_batchnorm_state(network: nn.Module, state: dict[str, np.ndarray]) -> None:
    """Sets running means and variances as `batchnorm_state` gave them.

    Raises:
        ValueError: they are of another network.
    """
    shapes = {name: value.shape for name, value in batchnorm_state(network).items()}
    if {name: value.shape for name, value in state.items()} != shapes:
        raise ValueError("the batch statistics are of another network")
    network.load_state_dict(
        {name: torch.from_numpy(np.array(value)) for name, value in state.items()}, strict=False
    )


@torch.no_grad()
def fold_batchnorms(network: nn.Module, example: Tensor) -> nn.Module:
    """Folds each batch norm that is fed by one convolution alone into it; gives a list of feature maps as before.

    The pairs are found, and the result is checked, by running `example` through the network.
    """
    folded = copy.deepcopy(network)
    for convolution, name in _convolutions_before_batchnorms(folded, example):
        _fold_pair(folded, convolution, name)
    # A convolution whose output also goes elsewhere (a pre-activation shortcut) must not be scaled.
    same = all(
        (after - before).abs().max() <= 1e-4 * before.abs().max()
        for before, after in zip(network(example), folded(example), strict=True)
    )
    return folded if same else network


def _convolutions_before_batchnorms(network: nn.Module, example: Tensor) -> list[tuple[nn.Conv2d, str]]:
    """Pairs of a convolution and the name of the batch norm that is given its output, each run exactly once."""
    outputs: list[tuple[Tensor, nn.Conv2d]] = []
    inputs: list[tuple[Tensor, str]] = []
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(lambda conv, _, y: outputs.append((y, conv))))
        elif isinstance(module, nn.BatchNorm2d):
            handles.append(
                module.register_forward_pre_hook(lambda _, x, name=name: inputs.append((x[0], name)))
            )
    network(example)
    for handle in handles:
        handle.remove()
    # Tensors are kept alive above, so that identity is meaningful.
    by_output = {id(y): conv for y, conv in outputs}
    convolutions = [conv for _, conv in outputs]
    names = [name for _, name in inputs]
    return [
        (by_output[id(x)], name)
        for x, name in inputs
        if id(x) in by_output and convolutions.count(by_output[id(x)]) == 1 and names.count(name) == 1
    ]


def _fold_pair(network: nn.Module, convolution: nn.Conv2d, name: str) -> None:
    norm: Any = network.get_submodule(name)
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    # timm's batch norms carry their activation with them.
    activation = getattr(norm, "act", None) or nn.Identity()
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, activation)
