"""Published weights, converted, against the literal model that they are of."""

from __future__ import annotations

import pytest
import torch
from published_reference import PublishedStyle, published_state
from torch import Tensor

from hvqray.errors import InputError
from hvqray.models.batch import Batch
from hvqray.models.context import ModelContext
from hvqray.models.hvq import HvqModel
from hvqray.models.published_weights import converted_state, published_layout


def state_of(theirs: PublishedStyle) -> dict[str, Tensor]:
    return {name.removeprefix("module."): tensor for name, tensor in published_state(theirs).items()}


def converted(theirs: PublishedStyle, **changes: object) -> HvqModel:
    state = state_of(theirs)
    layout = published_layout(state, source="x.pth")
    names = tuple(f"class {y}" for y in range(layout.num_classes))
    context = ModelContext(names, layout.channels, layout.grid_size, 16 * layout.grid_size[0])
    config = layout.model_config().model_copy(update=changes)
    model = HvqModel(config, context)
    model.load_state_dict(converted_state(state, layout))
    return model


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"depth": 1, "classes": 1, "width": 8, "grid": (2, 2)},
        {"depth": 2, "classes": 15, "codes": 5, "channels": 7, "hidden": 9},
        *({"depth": depth, "classes": 2, "width": 24, "codes": 6} for depth in (3, 5, 6)),
    ],
)
def test_maps_of_converted_weights_are_those_of_the_formulas(sizes: dict[str, object]) -> None:
    torch.manual_seed(0)
    theirs = PublishedStyle(**sizes).eval()
    model = converted(theirs, score_pool_size=16)
    height, width = model.context.grid_size
    num_classes = len(model.context.class_names)
    labels = torch.arange(4) % num_classes
    features = 3 * torch.randn(4, model.context.feature_channels, height, width)
    prediction = model.predict(Batch(features, labels))
    expected = torch.stack([theirs.map_of(x, int(y)) for x, y in zip(features, labels, strict=True)])
    assert expected.std() > 0.1
    torch.testing.assert_close(prediction.maps_BHW, expected, rtol=0, atol=1e-4)
    pooled = torch.nn.functional.avg_pool2d(expected[:, None], 16, 1).amax((1, 2, 3))
    torch.testing.assert_close(prediction.scores_B, pooled, rtol=0, atol=1e-4)


def let_codes_die(theirs: PublishedStyle, *, num_steps: int, last_count: float) -> None:
    """Codes 4 and up of every codebook as the published update leaves them after `num_steps` in which nothing chose them."""
    for level in range(theirs.depth + 1):
        for book in getattr(theirs, f"quantize_list_{level + 1}"):
            book.embed_avg[:, 4:] = book.embed[:, 4:] * max(last_count, 1) * 0.99**num_steps
            book.cluster_size[4:] = last_count * 0.99**num_steps
            total = book.cluster_size.sum()
            smoothed = total * (book.cluster_size + 1e-5) / (total + theirs.codes * 1e-5)
            book.embed.copy_(book.embed_avg / smoothed)


DEAD: list[dict[str, float]] = [
    {"num_steps": 800, "last_count": 3.0},
    {"num_steps": 2000, "last_count": 0.0},  # from the published start, counts of 0 with sums of a code each
]


@pytest.mark.parametrize("dead", DEAD, ids=["no longer", "never"])
def test_codes_that_nothing_chooses_count_in_the_maps_as_published(dead: dict[str, float]) -> None:
    torch.manual_seed(0)
    theirs = PublishedStyle().eval()
    let_codes_die(theirs, **dead)
    features, labels = 3 * torch.randn(2, 12, 3, 3), torch.tensor([0, 1])
    maps = converted(theirs).predict(Batch(features, labels)).maps_BHW
    expected = torch.stack([theirs.map_of(x, int(y)) for x, y in zip(features, labels, strict=True)])
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dead", DEAD, ids=["no longer", "never"])
def test_codes_that_nothing_chooses_keep_their_place_and_leave_ot_when_training_goes_on(
    dead: dict[str, float],
) -> None:
    torch.manual_seed(0)
    theirs = PublishedStyle()
    let_codes_die(theirs, **dead)
    level = converted(theirs).network.lower[0].train()
    before_KD = level.codebook_MKD[0, 4:].clone()
    x_BLD, classes_B = torch.randn(1, 7, 32), torch.tensor([0])
    level(level.codebook_MKD[:1, :4], classes_B)
    level.update(lambda statistics: statistics)
    # The smoothing takes 1 % of a code of so small a count.
    torch.testing.assert_close(level.codebook_MKD[0, 4:], before_KD, rtol=0.02, atol=0)
    cost_BL = level.transport_cost(x_BLD, classes_B)
    level.used_MK[0, 4:] = False
    assert torch.equal(level.transport_cost(x_BLD, classes_B), cost_BL)


def test_columns_and_rows_of_the_position_are_not_confused() -> None:
    torch.manual_seed(0)
    theirs = PublishedStyle().eval()
    with torch.no_grad():
        theirs.pos_embed.row_embed.weight.mul_(3)
    model = converted(theirs)
    features = torch.randn(1, 12, 3, 3)
    maps = model.predict(Batch(features, torch.tensor([1]))).maps_BHW
    torch.testing.assert_close(maps[0], theirs.map_of(features[0], 1), rtol=0, atol=1e-4)


def test_classes_may_be_taken_in_another_order() -> None:
    theirs = PublishedStyle()
    state = state_of(theirs)
    layout = published_layout(state, source="x.pth")
    plain, turned = converted_state(state, layout), converted_state(state, layout, labels=[2, 0, 1])
    for name, tensor in plain.items():
        by_class = "_M" in name
        assert torch.equal(turned[name], tensor[[2, 0, 1]] if by_class else tensor), name


def test_the_model_is_configured_as_published() -> None:
    config = published_layout(state_of(PublishedStyle()), source="x.pth").model_config()
    assert not config.standardize_features
    assert (config.num_heads, config.hierarchy_depth, config.width) == (8, 4, 16)
    assert (config.ot_weight, config.ot_levels, config.router) == (80.0, [0], "oracle")
    assert (config.commitment_weight, config.ema_decay, config.dropout) == (0.25, 0.99, 0.1)
    assert (config.map_distance, config.score_pool_size, config.score_top_fraction) == ("l2", 16, 0.0)


def train_one_step(model: HvqModel, features: Tensor) -> None:
    model.train()
    model.random.begin_step(0, rows=slice(None), num_rows=len(features))
    model.loss(Batch(features, torch.zeros(len(features), dtype=torch.int64)), 0.0)
    model.after_step()


def test_codes_go_on_from_their_averages() -> None:
    """After one more step, a code that nothing chose is where the published update would put it."""
    torch.manual_seed(0)
    theirs = PublishedStyle(codes=8)
    model = converted(theirs)
    before = model.network.lower[0].codebook_MKD.clone()
    train_one_step(model, torch.randn(2, 12, 3, 3))
    level = model.network.lower[0]
    assert torch.equal(level.codebook_MKD[1:], before[1:])
    count = level.ema_count_MK[0]
    smoothed = count.sum() * (count + 1e-5) / (count.sum() + 8e-5)
    torch.testing.assert_close(level.codebook_MKD[0], level.ema_sum_MKD[0] / smoothed[:, None])
    assert level.used_MK.all()


def test_a_class_that_was_never_trained_does_not_blow_up_when_it_is() -> None:
    torch.manual_seed(0)
    theirs = PublishedStyle()
    for level in range(5):
        book = getattr(theirs, f"quantize_list_{level + 1}")[0]
        book.cluster_size.zero_()
        book.embed_avg.copy_(book.embed)
    model = converted(theirs)
    for quantizer in model.network.vector_quantizers():
        assert not quantizer.used_MK[0].any()
        assert quantizer.used_MK[1:].all()
    train_one_step(model, torch.randn(2, 12, 3, 3))
    for quantizer in model.network.vector_quantizers():
        assert quantizer.codebook_MKD.norm(dim=-1).max() < 40


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    "name",
    [
        "quantize_conv_t.weight",
        "encoder.layers.3.norm2.bias",
        "decoder.layers.0.multihead_attn.out_proj.bias",
        "quantize_list_5.2.cluster_size",
        "pos_embed.col_embed.weight",
        "output_proj_list.1.bias",
    ],
)
def test_a_missing_tensor_is_named(name: str) -> None:
    with pytest.raises(InputError) as raised:
        published_layout(without(state_of(PublishedStyle()), name), source="x.pth")
    assert str(raised.value).startswith(f"x.pth: holds no {name!r}; give")


def test_an_unknown_tensor_is_named_but_backbone_and_the_unused_layer_are_known() -> None:
    state = state_of(PublishedStyle())
    extra = {"enc._conv_stem.weight": torch.zeros(1)}
    published_layout(without(state, "input_proj.bias") | extra, source="x.pth")
    with pytest.raises(InputError, match=r"^x\.pth: holds 'decoder\.layers\.4\.norm1\.bias', which"):
        published_layout(state | {"decoder.layers.4.norm1.bias": torch.zeros(32)}, source="x.pth")


def test_a_wrong_shape_is_named_with_the_right_one() -> None:
    state = state_of(PublishedStyle())
    state["decoder.layers.1.linear2.weight"] = torch.zeros(32, 25)
    with pytest.raises(
        InputError, match=r"linear2\.weight' has shape \(32, 25\), where .* ask for \(32, 24\)"
    ):
        published_layout(state, source="x.pth")
    state["quantize_conv_t.weight"] = torch.zeros(16, 12)
    with pytest.raises(InputError, match=r"quantize_conv_t\.weight' has shape \(16, 12\), not 4 dimensions"):
        published_layout(state, source="x.pth")


def test_a_width_that_eight_heads_do_not_divide_is_refused() -> None:
    state = state_of(PublishedStyle())
    state["quantize_conv_t.weight"] = torch.zeros(12, 12, 1, 1)
    with pytest.raises(InputError, match="width 12 is no multiple of the published code's 8 heads"):
        published_layout(state, source="x.pth")
