"""Whole layers against `torch.nn`'s post-norm layers with the same weights, for several heads and widths."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hvqray.config.model_sections import HvqConfig
from hvqray.models.attention import DecoderLayer, Dropout, EncoderLayer, MultiheadAttention
from hvqray.models.code_tokens import CodeTokens
from hvqray.models.random_stream import RandomStream

SHAPES = [(8, 1), (8, 8), (16, 4), (24, 3), (40, 8)]
HIDDEN = 20


def copy_attention(theirs: nn.MultiheadAttention, ours: MultiheadAttention) -> None:
    width = theirs.embed_dim
    theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
    theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, torch.zeros(width), ours.value.bias]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


def randomized(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


@pytest.mark.parametrize(("width", "heads"), SHAPES)
def test_encoder_layer(width: int, heads: int) -> None:
    torch.manual_seed(0)
    ours = randomized(EncoderLayer(width, heads, HIDDEN, Dropout(0.0, RandomStream())))
    theirs = nn.TransformerEncoderLayer(width, heads, HIDDEN, dropout=0.0, batch_first=True)
    with torch.no_grad():
        copy_attention(theirs.self_attn, ours.self_attention)
    theirs.linear1.load_state_dict(ours.feedforward.expand.state_dict())
    theirs.linear2.load_state_dict(ours.feedforward.contract.state_dict())
    theirs.norm1.load_state_dict(ours.norm_attention.state_dict())
    theirs.norm2.load_state_dict(ours.norm_feedforward.state_dict())
    x = torch.randn(3, 6, width)
    torch.testing.assert_close(ours(x, torch.zeros(6, width)), theirs(x))


@pytest.mark.parametrize(("width", "heads"), SHAPES)
def test_decoder_layer(width: int, heads: int) -> None:
    torch.manual_seed(0)
    ours = randomized(DecoderLayer(width, heads, HIDDEN, Dropout(0.0, RandomStream())))
    theirs = nn.TransformerDecoderLayer(width, heads, HIDDEN, dropout=0.0, batch_first=True)
    with torch.no_grad():
        copy_attention(theirs.self_attn, ours.self_attention)
        copy_attention(theirs.multihead_attn, ours.cross_attention)
    theirs.linear1.load_state_dict(ours.feedforward.expand.state_dict())
    theirs.linear2.load_state_dict(ours.feedforward.contract.state_dict())
    theirs.norm1.load_state_dict(ours.norm_self.state_dict())
    theirs.norm2.load_state_dict(ours.norm_cross.state_dict())
    theirs.norm3.load_state_dict(ours.norm_feedforward.state_dict())
    x, code = torch.randn(3, 6, width), torch.randn(3, 6, width)
    torch.testing.assert_close(ours(x, CodeTokens(code), torch.zeros(6, width)), theirs(x, code))


@pytest.mark.parametrize(("width", "heads"), SHAPES)
def test_every_shape_that_divides_is_allowed(width: int, heads: int) -> None:
    assert HvqConfig(width=width, num_heads=heads).num_heads == heads


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="num_heads: 5 does not divide width 16"):
        HvqConfig(width=16, num_heads=5)
