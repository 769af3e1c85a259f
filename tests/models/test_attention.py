"""Attention layers against PyTorch's own, and dropout's masks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from hvqray.models.attention import (
    MOST_UNFUSED_WEIGHTS,
    DecoderLayer,
    Dropout,
    EncoderLayer,
    MultiheadAttention,
    PositionEmbedding,
)
from hvqray.models.code_tokens import CodeTokens
from hvqray.models.random_stream import RandomStream

WIDTH, HEADS = 16, 4


def reference(attention: MultiheadAttention) -> nn.MultiheadAttention:
    """PyTorch's attention with the same weights; the key bias, which must not matter, is anything."""
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    projections = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        theirs.in_proj_bias.copy_(torch.cat([attention.query.bias, torch.randn(WIDTH), attention.value.bias]))
        theirs.out_proj.load_state_dict(attention.output.state_dict())
    return theirs


def randomized(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize("spelt_out", [False, True])
def test_attention_is_pytorchs(spelt_out: bool) -> None:
    torch.manual_seed(0)
    # A probability that drops nothing, yet takes the path with explicit masks.
    attention = randomized(
        MultiheadAttention(WIDTH, HEADS, Dropout(1e-9 if spelt_out else 0.0, RandomStream()))
    )
    query, key, value = (torch.randn(2, n, WIDTH, requires_grad=True) for n in (5, 7, 7))
    out = attention(query, key, value)
    expected, _ = reference(attention)(query, key, value)
    torch.testing.assert_close(out, expected)
    upstream = torch.randn(out.shape)
    gradients = torch.autograd.grad(out, [query, key, value], upstream)
    for ours, theirs in zip(
        gradients, torch.autograd.grad(expected, [query, key, value], upstream), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("num_heads", "num_keys", "trains", "fused_in"),
    [
        (2, 7, True, None),  # heads of 32 channels: the two products
        (4, 7, True, torch.float32),  # of 16
        (4, 7, False, torch.bfloat16),
        (2, MOST_UNFUSED_WEIGHTS // 5 + 1, True, torch.bfloat16),
        (4, MOST_UNFUSED_WEIGHTS // 5 + 1, True, torch.bfloat16),
    ],
)
def test_in_bfloat16_attention_takes_the_fastest_way_to_the_same(
    num_heads: int,
    num_keys: int,
    trains: bool,
    fused_in: torch.dtype | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    attention = MultiheadAttention(64, num_heads, Dropout(0.0, RandomStream())).requires_grad_(trains)
    query, key, value = (torch.randn(2, n, 64, requires_grad=trains) for n in (5, num_keys, num_keys))
    expected = attention(query, key, value)
    seen: list[torch.dtype] = []
    fused = functional.scaled_dot_product_attention

    def noting(*tensors: torch.Tensor) -> torch.Tensor:
        out = fused(*tensors)
        seen.append(out.dtype)
        return out

    monkeypatch.setattr(functional, "scaled_dot_product_attention", noting)
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(query, key, value)
    assert seen == [fused_in] * (fused_in is not None)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.03, atol=0.01)
    if trains:
        upstream = torch.randn(expected.shape)
        ours, theirs = (
            torch.autograd.grad(each.float(), [query, key, value], upstream) for each in (out, expected)
        )
        for found, wanted in zip(ours, theirs, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.02 * wanted.abs().max().item())


def test_attention_starts_as_pytorchs() -> None:
    torch.manual_seed(0)
    attention = MultiheadAttention(64, HEADS, Dropout(0.0, RandomStream()))
    theirs = nn.MultiheadAttention(64, HEADS).in_proj_weight
    for projection in (attention.query, attention.key, attention.value):
        largest = projection.weight.abs().max().item()
        assert largest == pytest.approx(theirs.abs().max().item(), rel=0.02)
        assert projection.weight.std().item() == pytest.approx(theirs.std().item(), rel=0.05)
    for biased in (attention.query, attention.value, attention.output):
        assert not biased.bias.any()


def test_dropout_acts_on_the_attention_weights() -> None:
    """With values of one everywhere, dropped weights are all that can change the output."""
    attention = MultiheadAttention(WIDTH, HEADS, Dropout(0.5, RandomStream()))
    nn.init.zeros_(attention.value.weight)
    nn.init.ones_(attention.value.bias)
    nn.init.eye_(attention.output.weight)
    x = torch.randn(8, 100, WIDTH)
    out = attention(x, x, x)
    assert out.std() > 0.05
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)
    torch.testing.assert_close(attention.eval()(x, x, x), torch.ones(8, 100, WIDTH))


def test_encoder_layer_is_pytorchs_with_positions_on_queries_and_keys() -> None:
    torch.manual_seed(0)
    layer = randomized(EncoderLayer(WIDTH, HEADS, 24, Dropout(0.0, RandomStream())))
    x, position = torch.randn(2, 5, WIDTH), torch.randn(5, WIDTH)
    attended, _ = reference(layer.self_attention)(x + position, x + position, x)
    hidden = layer.norm_attention(x + attended)
    expected = layer.norm_feedforward(
        hidden + layer.feedforward.contract(torch.relu(layer.feedforward.expand(hidden)))
    )
    torch.testing.assert_close(layer(x, position), expected)


def test_decoder_layer_attends_to_itself_then_to_the_codes() -> None:
    torch.manual_seed(0)
    layer = randomized(DecoderLayer(WIDTH, HEADS, 24, Dropout(0.0, RandomStream())))
    x, code, position = torch.randn(2, 5, WIDTH), torch.randn(2, 5, WIDTH), torch.randn(5, WIDTH)
    attended, _ = reference(layer.self_attention)(x + position, x + position, x)
    hidden = layer.norm_self(x + attended)
    crossed, _ = reference(layer.cross_attention)(hidden + position, code + position, code)
    hidden = layer.norm_cross(hidden + crossed)
    expected = layer.norm_feedforward(
        hidden + layer.feedforward.contract(torch.relu(layer.feedforward.expand(hidden)))
    )
    torch.testing.assert_close(layer(x, CodeTokens(code), position), expected)


def test_position_embedding_lays_rows_beside_columns() -> None:
    embedding = PositionEmbedding((2, 3), 4)
    for parameter in embedding.parameters():
        assert parameter.min() >= 0
        assert parameter.max() < 1
    out = embedding()
    assert out.shape == (6, 4)
    for row in range(2):
        for column in range(3):
            expected = torch.cat([embedding.row_hE[row], embedding.column_wE[column]])
            assert torch.equal(out[3 * row + column], expected)


def test_dropout_keeps_the_mean_and_is_off_in_eval_mode() -> None:
    dropout = Dropout(0.3, RandomStream())
    x = torch.ones(4, 50_000)
    out = dropout(x)
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert out.mean().item() == pytest.approx(1.0, abs=0.01)
    assert dropout.eval()(x) is x


def test_masks_and_noise_do_not_depend_on_how_the_batch_is_split() -> None:
    like = torch.zeros(5, 3, 7)
    whole, parts = RandomStream(), []
    whole.begin_step(3, rows=slice(0, 5), num_rows=5)
    expected = whole.keep_mask(like, 0.6), whole.normal(like), whole.keep_mask(like, 0.2)
    for rows in (slice(0, 2), slice(2, 5)):
        stream = RandomStream()
        stream.begin_step(3, rows=rows, num_rows=5)
        part = like[rows]
        parts.append((stream.keep_mask(part, 0.6), stream.normal(part), stream.keep_mask(part, 0.2)))
    for draw, pieces in zip(expected, zip(*parts, strict=True), strict=True):
        assert torch.equal(draw, torch.cat(pieces))


@pytest.mark.parametrize("probability", [0.001, 0.5, 0.9, 1.0])
def test_masks_are_independent_draws_of_the_probability(probability: float) -> None:
    mask = RandomStream().keep_mask(torch.empty(1000, 401), probability)
    error = 4 * (probability * (1 - probability) / mask.numel()) ** 0.5
    assert mask.mean().item() == pytest.approx(probability, abs=error + 2**-16)
    # The four decisions that come from one draw must not go together.
    quarters = mask.flatten().view(-1, 4)
    together = quarters.prod(1).mean().item()
    assert together == pytest.approx(probability**4, abs=0.01)
    assert quarters.mean(0).tolist() == pytest.approx([probability] * 4, abs=4 * error + 2**-16)


def test_attention_drops_weights_and_keeps_their_mean() -> None:
    torch.manual_seed(0)
    random = RandomStream()
    attention = MultiheadAttention(8, 2, Dropout(0.25, random))
    query, key, value = (torch.randn(2, 3, 8) for _ in range(3))
    random.begin_step(5, rows=slice(None), num_rows=2)
    out = attention.attend(query, key, value)
    q, k, v = (x.unflatten(-1, (2, 4)).transpose(1, 2) for x in (query, key, value))
    weights = (q @ k.mT / 2).softmax(-1)
    random.begin_step(5, rows=slice(None), num_rows=2)
    kept = weights * random.keep_mask(weights, 0.75) / 0.75
    expected = attention.output((kept @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
    assert not torch.equal(kept, weights)
