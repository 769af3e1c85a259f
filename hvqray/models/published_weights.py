"""Weights of the published HVQ-Trans code, brought into this project's `HvqModel`.

Lu et al., "Hierarchical Vector Quantized Transformer for Multi-class Unsupervised Anomaly Detection", NeurIPS 2023,
arXiv 2310.14228. docs/convert.md lists every key.

Shapes: C feature channels, h x w feature grid, D width, W = 2 D, E feed-forward width, N depth, K codes, M classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hvqray.config.model_sections import HvqConfig
from hvqray.errors import InputError
from hvqray.quantizers.vq import LEAST_COUNT

NUM_HEADS = 8
"""The published code's; no tensor tells of it."""
BACKBONE_PREFIX = "enc."
UNUSED_PREFIX = "input_proj."
"""A linear layer that the published model owns and never calls."""
_TELLING = {
    "quantize_conv_t.weight": 4,
    "pos_embed.row_embed.weight": 2,
    "pos_embed.col_embed.weight": 2,
    "encoder.layers.0.linear1.weight": 2,
    "quantize_list_1.0.embed": 2,
    "output_proj_list.0.weight": 2,
}
"""The tensors that tell a model's sizes, and how many dimensions each has."""
_MEND = "give an unchanged checkpoint of the published HVQ-Trans code"

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class PublishedLayout:
    """The sizes of a published model, as its tensors tell them."""

    channels: int
    width: int
    depth: int
    feedforward_width: int
    codebook_size: int
    num_classes: int
    grid_size: tuple[int, int]

    def model_config(self) -> HvqConfig:
        """The published model as this project configures it."""
        return HvqConfig(
            width=self.width,
            hierarchy_depth=self.depth,
            num_heads=NUM_HEADS,
            feedforward_width=self.feedforward_width,
            codebook_size=self.codebook_size,
            codebook_init="normal",
            standardize_features=False,
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name to shape of every tensor that the conversion reads."""
        width, twice, hidden, grid = self.width, 2 * self.width, self.feedforward_width, self.grid_size
        shapes: dict[str, tuple[int, ...]] = {
            "quantize_conv_t.weight": (width, self.channels, 1, 1),
            "quantize_conv_t.bias": (width,),
            "pos_embed.row_embed.weight": (grid[0], width // 2),
            "pos_embed.col_embed.weight": (grid[1], width // 2),
        }
        for i in range(self.depth):
            shapes |= _layer_shapes(f"encoder.layers.{i}", width, hidden, ("self_attn",))
            shapes |= _layer_shapes(f"decoder.layers.{i}", twice, hidden, ("self_attn", "multihead_attn"))
        shapes |= _affine_shapes("decoder.norm", (twice,))
        for y in range(self.num_classes):
            shapes |= _affine_shapes(f"output_proj_list.{y}", (self.channels, twice))
            for level in range(self.depth + 1):
                dim = width if level == self.depth else twice
                for name in ("embed", "embed_avg"):
                    shapes[f"quantize_list_{level + 1}.{y}.{name}"] = (dim, self.codebook_size)
                shapes[f"quantize_list_{level + 1}.{y}.cluster_size"] = (self.codebook_size,)
        return shapes


def published_layout(state: State, *, source: str) -> PublishedLayout:
    """The sizes of the model that `state`, read from the file `source`, belongs to.

    Raises:
        InputError: a tensor is missing, of another shape than the others ask for, or unknown; one line names it.
    """
    for name, num_dims in _TELLING.items():
        if name not in state:
            raise _missing(name, source)
        if state[name].ndim != num_dims:
            raise InputError(
                f"{name!r} has shape {tuple(state[name].shape)}, not {num_dims} dimensions; {_MEND}",
                source=source,
            )
    width, channels = state["quantize_conv_t.weight"].shape[:2]
    layout = PublishedLayout(
        channels=channels,
        width=width,
        depth=_count(state, "encoder.layers.{}.linear1.weight"),
        feedforward_width=len(state["encoder.layers.0.linear1.weight"]),
        codebook_size=state["quantize_list_1.0.embed"].shape[1],
        num_classes=_count(state, "output_proj_list.{}.weight"),
        grid_size=(len(state["pos_embed.row_embed.weight"]), len(state["pos_embed.col_embed.weight"])),
    )
    if width % NUM_HEADS:
        raise InputError(
            f"its width {width} is no multiple of the published code's {NUM_HEADS} heads; {_MEND}",
            source=source,
        )
    expected = layout.shapes()
    for name, shape in expected.items():
        if name not in state:
            raise _missing(name, source)
        if tuple(state[name].shape) != shape:
            raise InputError(
                f"{name!r} has shape {tuple(state[name].shape)}, where the other tensors ask for {shape}; {_MEND}",
                source=source,
            )
    known = (BACKBONE_PREFIX, UNUSED_PREFIX)
    for name in state:
        if name not in expected and not name.startswith(known):
            raise InputError(
                f"holds {name!r}, which the published HVQ-Trans of depth {layout.depth} does not have; {_MEND}",
                source=source,
            )
    return layout


def converted_state(
    state: State, layout: PublishedLayout, *, labels: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """What `HvqModel(layout.model_config(), ...).load_state_dict` takes, float32 but for flags and counters.

    `labels` are the published labels in this project's order of classes; None keeps the published order.

    The published code lays a position's column before its row, this project its row before its column. So the two
    halves of the D channels change places throughout, which changes no result.
    """
    labels = range(layout.num_classes) if labels is None else labels
    half = layout.width // 2
    order_D = torch.arange(layout.width).roll(half)
    order_W = torch.cat([order_D, layout.width + order_D])
    target = {
        "standardizer.mean_C": torch.zeros(layout.channels),
        "standardizer.std_C": torch.ones(layout.channels),
        "network.projection.weight": state["quantize_conv_t.weight"].flatten(1)[order_D],
        "network.projection.bias": state["quantize_conv_t.bias"][order_D],
        "network.position.row_hE": state["pos_embed.row_embed.weight"],
        "network.position.column_wE": state["pos_embed.col_embed.weight"],
        "network.norm.weight": state["decoder.norm.weight"][order_W],
        "network.norm.bias": state["decoder.norm.bias"][order_W],
    }
    for i in range(layout.depth):
        source, ours = f"encoder.layers.{i}", f"network.encoder.{i}"
        norms = {"norm1": "norm_attention", "norm2": "norm_feedforward"}
        attentions = {"self_attn": "self_attention"}
        target |= _layer(state, source, ours, order_D, attentions=attentions, norms=norms)
        source, ours = f"decoder.layers.{i}", f"network.decoder.{i}"
        norms = {"norm1": "norm_self", "norm2": "norm_cross", "norm3": "norm_feedforward"}
        attentions = {"self_attn": "self_attention", "multihead_attn": "cross_attention"}
        target |= _layer(state, source, ours, order_W, attentions=attentions, norms=norms)
    for level in range(layout.depth):
        target |= _codebooks(state, f"quantize_list_{level + 1}", f"network.lower.{level}", order_W, labels)
    target |= _codebooks(state, f"quantize_list_{layout.depth + 1}", "network.top", order_D, labels)
    outputs = [f"output_proj_list.{y}" for y in labels]
    target["network.output.weight_MWC"] = torch.stack([state[f"{o}.weight"].T[order_W] for o in outputs])
    target["network.output.bias_MC"] = torch.stack([state[f"{o}.bias"] for o in outputs])
    return {
        name: tensor.float().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in target.items()
    }


def _layer(
    state: State,
    source: str,
    target: str,
    order: Tensor,
    *,
    attentions: Mapping[str, str],
    norms: Mapping[str, str],
) -> dict[str, Tensor]:
    converted = {
        f"{target}.feedforward.expand.weight": state[f"{source}.linear1.weight"][:, order],
        f"{target}.feedforward.expand.bias": state[f"{source}.linear1.bias"],
        f"{target}.feedforward.contract.weight": state[f"{source}.linear2.weight"][order],
        f"{target}.feedforward.contract.bias": state[f"{source}.linear2.bias"][order],
    }
    for theirs, ours in norms.items():
        for kind in ("weight", "bias"):
            converted[f"{target}.{ours}.{kind}"] = state[f"{source}.{theirs}.{kind}"][order]
    for theirs, ours in attentions.items():
        weights = state[f"{source}.{theirs}.in_proj_weight"][:, order].chunk(3)
        biases = state[f"{source}.{theirs}.in_proj_bias"].chunk(3)
        for name, weight in zip(("query", "key", "value"), weights, strict=True):
            converted[f"{target}.{ours}.{name}.weight"] = weight
        # The key's bias is left out: it adds the same to all scores of a query, which the softmax takes away.
        converted[f"{target}.{ours}.query.bias"] = biases[0]
        converted[f"{target}.{ours}.value.bias"] = biases[2]
        for kind in ("weight", "bias"):
            converted[f"{target}.{ours}.output.{kind}"] = state[f"{source}.{theirs}.out_proj.{kind}"][order]
    return converted


def _codebooks(
    state: State, source: str, target: str, order: Tensor, labels: Sequence[int]
) -> dict[str, Tensor]:
    """One level's codebooks of all classes.

    All codes of a class that was trained count as used, and have at least the count of a code that lives, so that OT
    is scored over all of them, as published. A class that was never trained has counts of 0, from which the published
    update would inflate its codes; its codes weigh one token each instead, as in a model that starts here.
    """
    classes = [f"{source}.{y}" for y in labels]
    codebook_MKD = torch.stack([state[f"{name}.embed"].T[:, order] for name in classes]).float()
    sum_MKD = torch.stack([state[f"{name}.embed_avg"].T[:, order] for name in classes]).float()
    count_MK = torch.stack([state[f"{name}.cluster_size"] for name in classes]).float()
    trained_M1 = count_MK.sum(1, keepdim=True) > 0
    living_MK = count_MK >= LEAST_COUNT
    converted_MK = torch.where(trained_M1, count_MK.clamp(min=LEAST_COUNT), 1.0)
    # Where a count is raised, its sum must be too: the next step divides one by the other.
    converted_sum_MKD = torch.where(living_MK[..., None], sum_MKD, codebook_MKD * converted_MK[..., None])
    return {
        f"{target}.codebook_MKD": codebook_MKD,
        f"{target}.ema_count_MK": converted_MK,
        f"{target}.ema_sum_MKD": converted_sum_MKD,
        f"{target}.used_MK": trained_M1.expand_as(count_MK).clone(),
        f"{target}.steps_unused_MK": torch.zeros_like(count_MK, dtype=torch.int64),
    }


def _affine_shapes(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _layer_shapes(
    name: str, width: int, hidden: int, attentions: tuple[str, ...]
) -> dict[str, tuple[int, ...]]:
    shapes = _affine_shapes(f"{name}.linear1", (hidden, width))
    shapes |= _affine_shapes(f"{name}.linear2", (width, hidden))
    for attention in attentions:
        shapes[f"{name}.{attention}.in_proj_weight"] = (3 * width, width)
        shapes[f"{name}.{attention}.in_proj_bias"] = (3 * width,)
        shapes |= _affine_shapes(f"{name}.{attention}.out_proj", (width, width))
    for i in range(len(attentions) + 1):
        shapes |= _affine_shapes(f"{name}.norm{i + 1}", (width,))
    return shapes


def _count(state: State, template: str) -> int:
    count = 0
    while template.format(count) in state:
        count += 1
    return count


def _missing(name: str, source: str) -> InputError:
    return InputError(f"holds no {name!r}; {_MEND}", source=source)
