"""Which feature maps of a backbone are used: stages of a hierarchical network, or blocks of a plain ViT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from hvqray.config.data_sections import BackboneConfig
from hvqray.errors import InputError

NUM_VIT_BLOCKS = 4


@dataclass(frozen=True)
class Layers:
    """The feature maps used, and the grid they lie on."""

    indices: list[int]
    """Those of the network's feature maps that are computed, ascending."""
    groups: list[list[int]]
    """Positions in `indices`: maps of one group are averaged, groups are concatenated in this order."""
    grid_stride: int
    """Pixels of the image per location of the grid."""


def choose_layers(network: Any, config: BackboneConfig) -> Layers:
    """Chooses among all feature maps of `network`, a timm model made with `features_only`.

    A plain ViT has one grid, that of its patches; its blocks are `config.blocks`, by default the last four. Any other
    network gives its stages at `config.strides`, which are resized to the grid of `config.grid_stride`.

    Raises:
        InputError: the network has no such block or stride.
    """
    strides = [int(stage["reduction"]) for stage in network.feature_info.info]
    if len(set(strides)) == 1:
        return _vit_layers(len(strides), strides[0], config)
    if config.blocks is not None:
        raise InputError(
            f"{config.name!r} is no plain ViT; remove blocks, its stages are chosen by strides",
            field="data.backbone.blocks",
        )
    for stride in config.strides:
        if stride not in strides:
            usable = [wanted for wanted in config.strides if wanted in strides]
            raise InputError(
                f"{config.name!r} has no stage at stride {stride}, only at {sorted(set(strides))}; use {usable}",
                field="data.backbone.strides",
            )
    # Where several stages share a stride, the last one is the deepest.
    indices = sorted({len(strides) - 1 - strides[::-1].index(stride) for stride in config.strides})
    return Layers(indices, [[position] for position in range(len(indices))], config.grid_stride)


def _vit_layers(num_blocks: int, patch: int, config: BackboneConfig) -> Layers:
    last = list(range(max(num_blocks - NUM_VIT_BLOCKS, 0), num_blocks))
    entries = config.blocks if config.blocks is not None else last
    groups = [entry if isinstance(entry, list) else [entry] for entry in entries]
    indices = sorted(block for group in groups for block in group)
    if indices[-1] >= num_blocks:
        raise InputError(
            f"{config.name!r} has no block {indices[-1]}, only 0 to {num_blocks - 1}",
            field="data.backbone.blocks",
        )
    return Layers(indices, [[indices.index(block) for block in group] for group in groups], patch)


def drop_unused_blocks(network: Any) -> None:
    """EfficientNet-like extractors run all blocks; the others already end at the last stage used."""
    stages = getattr(network, "_stage_out_idx", None)
    if stages is not None and isinstance(network.blocks, nn.Sequential):
        network.blocks = network.blocks[: max(stages)]
