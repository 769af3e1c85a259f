"""The frozen feature extractor: uint8 images in, feature maps on one grid out.

Legend: B batch, S image size, C channels of all maps together, h x w grid: S/16 x S/16 (or of another
stride), or a ViT's own of S/patch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from hvqray.config.data_sections import BackboneConfig
from hvqray.data.backbone_layers import Layers, choose_layers, drop_unused_blocks
from hvqray.data.backbone_padding import fix_padding
from hvqray.data.backbone_weights import find_weights, read_weights
from hvqray.data.batchnorm import (
    batchnorm_state,
    batchnorms_in_training,
    fold_batchnorms,
    set_batchnorm_state,
)
from hvqray.errors import InputError, did_you_mean
from hvqray.exact import exact_convolutions

logging.getLogger("timm").setLevel(
    logging.ERROR
)  # it warns of the classifier's weights, which are left out on purpose


class Backbone(nn.Module):
    """Normalises, runs the network up to the last map used, resizes the maps to the grid and concatenates them.

    Resizing is bilinear with `align_corners=True`; a ViT's blocks lie on the grid already, and are averaged where the
    configuration groups them. Always in eval mode, without gradients.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Layers,
        *,
        mean: Iterable[float],
        std: Iterable[float],
        image_size: int,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self._gives_BhwC = getattr(network, "output_fmt", None) == "NHWC"
        self._groups = layers.groups
        self.grid_size = (image_size // layers.grid_stride, image_size // layers.grid_stride)
        mean_3, std_3 = torch.tensor(list(mean)), torch.tensor(list(std))
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", (1 / (255 * std_3)).view(1, 3, 1, 1))
        self.register_buffer("shift", (-mean_3 / std_3).view(1, 3, 1, 1))

    def train(self, mode: bool = True) -> Backbone:
        """Stays in eval mode: batch statistics and stochastic depth have no place in a frozen extractor."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images_B3SS: UInt8[Tensor, "b 3 s s"]) -> Float[Tensor, "b c h w"]:
        """float32 features of uint8 RGB images."""
        with exact_convolutions():
            outputs = self.network(self.normalize(images_B3SS))
        maps = [one.permute(0, 3, 1, 2) if self._gives_BhwC else one for one in outputs]
        resized = [F.interpolate(one, self.grid_size, mode="bilinear", align_corners=True) for one in maps]
        averaged = [_mean([resized[i] for i in group]) for group in self._groups]
        return torch.cat(averaged, dim=1).contiguous()

    def normalize(self, images_B3SS: UInt8[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 s s"]:
        """float32 by the backbone's own mean and standard deviation, channels last in memory."""
        x_B3SS = images_B3SS.to(torch.float32, memory_format=torch.channels_last)
        return x_B3SS * self.scale + self.shift


def _mean(maps: list[Tensor]) -> Tensor:
    return maps[0] if len(maps) == 1 else torch.stack(maps).mean(0)


def load_backbone(
    config: BackboneConfig, image_size: int, *, batchnorm: dict[str, np.ndarray] | None = None
) -> Backbone:
    """Builds the extractor for square images of `image_size` pixels, on the CPU.

    `batchnorm` replaces the batch norms' statistics (`PreparedData.batchnorm`). The batch norms are folded into the
    convolutions before them, which changes features by about 1e-5. Random weights are the same ones each time.

    Raises:
        InputError: an unknown backbone, stride or block, an image size that gives no whole grid, no weights within
            reach, or weights of another network.
    """
    backbone = _build(config, image_size)
    if batchnorm is not None:
        set_batchnorm_state(backbone.network, batchnorm)
    example = torch.randint(
        0, 256, (1, 3, image_size, image_size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    backbone.network = fold_batchnorms(backbone.network, backbone.normalize(example))
    backbone.network.to(memory_format=torch.channels_last)
    return backbone


def feature_shape(config: BackboneConfig, image_size: int) -> tuple[int, int, int]:
    """(C, h, w) of the features of a square image of `image_size` pixels.

    Raises:
        InputError: as `load_backbone`.
    """
    backbone = _build(config, image_size)
    channels, height, width = backbone(torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8))[0].shape
    return channels, height, width


def estimate_batchnorm(
    config: BackboneConfig, image_size: int, batches: Iterable[Tensor], *, device: str = "cpu"
) -> dict[str, np.ndarray]:
    """Re-estimates the batch norms' statistics on uint8 (B, 3, S, S) batches, which should mix the classes.

    Each statistic is the plain average over the batches. A batch norm sees what the ones before it give on the batch's
    own statistics, as in training mode; everything else (stochastic depth) stays in eval mode. Empty for a network
    without batch norms.
    """
    backbone = _build(config, image_size).to(device)
    with batchnorms_in_training(backbone.network):
        for images_B3SS in batches:
            backbone(images_B3SS.to(device))
    return batchnorm_state(backbone.network)


def _build(config: BackboneConfig, image_size: int) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, layers = _build_network(config, image_size)
    cfg = network.pretrained_cfg
    if config.padding == "published" and not fix_padding(network.eval(), image_size=cfg["input_size"][-1]):
        raise InputError(
            f"{config.name!r} has no padding that depends on the image size; use 'timm'",
            field="data.backbone.padding",
        )
    return Backbone(network, layers, mean=cfg["mean"], std=cfg["std"], image_size=image_size)


def _build_network(config: BackboneConfig, image_size: int) -> tuple[Any, Layers]:
    """The timm network that gives the list of the maps used, with its weights."""
    name = config.name
    if not timm.is_model(name):
        raise InputError(f"timm has no backbone {name!r}{_near_model(name)}", field="data.backbone.name")
    shape: dict[str, Any] = {}
    pretrained: dict[str, Any] = {}
    if timm.get_pretrained_cfg(name, allow_unregistered=True).fixed_input_size:
        shape["img_size"] = image_size  # timm interpolates the position embedding of the weights to it
    weights = find_weights(config)
    if weights is not None:
        state = read_weights(weights, config)
        if config.weights not in ("auto", "hub"):  # timm converts the hub's, and knows them to be complete
            _check_complete(name, state, weights)
        pretrained = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": state}}
    try:
        layers = choose_layers(timm.create_model(name, features_only=True, **shape), config)
        if image_size % layers.grid_stride:
            raise _no_whole_grid(name, image_size, layers.grid_stride)
        network = timm.create_model(
            name, features_only=True, out_indices=layers.indices, **shape, **pretrained
        )
    except InputError:
        raise
    except (
        RuntimeError,
        AttributeError,
        AssertionError,
        NotImplementedError,
        TypeError,
        ValueError,
    ) as error:
        reason = f"({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        raise InputError(
            f"{name!r} gives no feature maps at {image_size} px {reason}", field="data.backbone.name"
        ) from None
    drop_unused_blocks(network)
    return network, layers


def _no_whole_grid(name: str, image_size: int, unit: int) -> InputError:
    lower = image_size // unit * unit
    return InputError(
        f"{image_size} is no multiple of {unit}, as {name!r} needs; use {lower or unit} or {lower + unit}",
        field="data.image_size",
    )


def _check_complete(name: str, state: dict[str, Tensor], path: Path) -> None:
    """timm itself loads what it finds and leaves the rest random."""
    needed = timm.create_model(name, num_classes=0).state_dict()
    missing = [key for key in needed if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        raise InputError(
            f"holds no {missing[0]!r} ({len(missing)} of {len(needed)} tensors of {name!r} are missing); "
            "give weights of this backbone under timm's names",
            source=str(path),
            field="data.backbone.weights",
        )
    # Weights within a block that it has no use for are those of a related network; a head's, which is not used, are none.
    blocks = {_block(key) for key in needed} - {None}
    foreign = [key for key in state if key not in needed and _is_parameter(key) and _block(key) in blocks]
    if foreign:
        raise InputError(
            f"holds {foreign[0]!r}, for which {name!r} has no place ({len(foreign)} such tensors): these are another"
            " network's weights; give those of this backbone, or name theirs",
            source=str(path),
            field="data.backbone.weights",
        )


def _block(key: str) -> str | None:
    """`blocks.0` of `blocks.0.1.conv_dw.weight`; None for what is in no numbered block."""
    parts = key.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 and parts[1].isdecimal() else None


def _is_parameter(key: str) -> bool:
    """Older files also hold buffers that are computed anew today."""
    return key.endswith((".weight", ".bias"))


def _near_model(name: str) -> str:
    family = name.split("_")[0][:4]
    near = did_you_mean(name, timm.list_models(f"*{family}*"))
    return near if near.startswith("; did") else ""
