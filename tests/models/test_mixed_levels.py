"""HVQ-Trans with a quantiser and a codebook size of its own at every level."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from model_cases import GRID, IMAGE_SIZE, hvq, make_batch, make_model, train_steps
from torch import Tensor

from hvqray.models.batch import Batch
from hvqray.models.hvq import HvqModel
from hvqray.models.levels import FsqLevel
from hvqray.quantizers.vq import VectorQuantizer

FSQ_SIZE = 60  # [5, 4, 3]
DEPTHS: list[tuple[list[str], list[int], list[int]]] = [
    (["vq", "fsq"], [5, 9], []),
    (["fsq", "vq"], [5, 9], [0]),
    (["fsq", "vq", "fsq"], [5, 9, 7], [1]),
    (["vq", "fsq", "vq"], [5, 9, 7], [0]),
    (["vq", "vq", "fsq", "vq"], [5, 9, 7, 11], [0, 2]),
]
"""Quantisers and codebook sizes from the top, and where OT is scored."""


def make_mixed(quantizers: list[str], sizes: list[int], ot_levels: list[int], **fields: object) -> HvqModel:
    model = make_model(
        hvq(
            hierarchy_depth=len(quantizers) - 1,
            quantizer=quantizers,
            codebook_size=sizes,
            ot_levels=ot_levels,
            **fields,
        )
    )
    assert isinstance(model, HvqModel)
    return model.eval()


def level_inputs(model: HvqModel, batch: Batch) -> dict[str, Tensor]:
    """What each level quantises, by name."""
    states = model.network.encode(model.standardizer(batch.features_BChw))
    latents = model.network.quantize(states, batch.class_index_B)
    return {"top": states[-1]} | {f"q{i}": x for i, x in enumerate(latents.lower_input_BLW)}


@pytest.mark.parametrize(("quantizers", "sizes", "ot_levels"), DEPTHS)
def test_each_level_has_the_quantizer_and_size_of_its_place(
    quantizers: list[str], sizes: list[int], ot_levels: list[int]
) -> None:
    model = make_mixed(quantizers, sizes, ot_levels)
    names = ["top", *(f"q{i}" for i in reversed(range(len(quantizers) - 1)))]
    codes = model.predict(make_batch()).codes
    assert list(model.codebook_sizes()) == list(codes) == names
    lower = [model.network.lower[i] for i in reversed(range(len(names) - 1))]
    for name, kind, size, level in zip(names, quantizers, sizes, [model.network.top, *lower], strict=True):
        assert isinstance(level, VectorQuantizer if kind == "vq" else FsqLevel)
        assert model.codebook_sizes()[name] == (size if kind == "vq" else FSQ_SIZE)
        assert (name in model.codebooks_per_class) == (kind == "vq")
        if kind == "vq":
            assert level.codebook_MKD.shape == (3, size, 16 if name == "top" else 32)
            assert codes[name].max() < size


@pytest.mark.parametrize(("quantizers", "sizes", "ot_levels"), DEPTHS)
def test_commitment_comes_from_the_levels_with_vq_alone(
    quantizers: list[str], sizes: list[int], ot_levels: list[int]
) -> None:
    model, batch = make_mixed(quantizers, sizes, ot_levels, commitment_weight=0.5), make_batch()
    losses = model.loss(batch, 0.0)
    names = list(model.codebook_sizes())
    expected = 0.0
    for name, x_BLD in level_inputs(model, batch).items():
        if quantizers[names.index(name)] == "vq":
            level = model.network.levels()[name]
            distance_BL = torch.cdist(x_BLD, level.codebook_MKD[batch.class_index_B]).amin(2)
            expected += (distance_BL.square().sum() / x_BLD.numel()).item()
    assert losses["commitment"].item() == pytest.approx(expected, rel=1e-3)
    total = losses["feature_mse"].item() + 0.5 * expected
    assert losses["loss"].item() == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize(("quantizers", "sizes", "ot_levels"), DEPTHS)
def test_the_map_has_the_transport_cost_of_the_named_levels(
    quantizers: list[str], sizes: list[int], ot_levels: list[int]
) -> None:
    model, batch = make_mixed(quantizers, sizes, ot_levels, ot_weight=3.0), make_batch()
    features = model.standardizer(batch.features_BChw)
    with torch.no_grad():
        expected = (model.network(features, batch.class_index_B)[0] - features).norm(dim=1)
        inputs = level_inputs(model, batch)
        for i in ot_levels:
            cost_BL = model.network.lower[i].transport_cost(inputs[f"q{i}"], batch.class_index_B)
            expected += 3.0 * cost_BL.reshape(-1, *GRID)
    size = (IMAGE_SIZE, IMAGE_SIZE)
    expected = F.interpolate(expected[:, None], size=size, mode="bilinear", align_corners=True)
    torch.testing.assert_close(model.predict(batch).maps_BHW, expected[:, 0])


def test_kmeans_starts_the_levels_with_vq_from_enough_tokens_of_their_own() -> None:
    """Also below a level of FSQ, and where the level below has more codes than the first had tokens."""
    for quantizers, sizes in ((["fsq", "vq", "vq"], [4, 4, 40]), (["vq", "fsq", "vq"], [4, 4, 40])):
        model, batch = make_mixed(quantizers, sizes, [0]), make_batch(30, seed=30)
        for name, x_BLD in level_inputs(model, batch).items():
            level = model.network.levels()[name]
            if isinstance(level, VectorQuantizer):
                assert level.used_MK.all()
                if level.codebook_size == 40:
                    codes_BKD = level.codebook_MKD[batch.class_index_B]
                    distance_B = torch.cdist(x_BLD, codes_BKD).amin(2).square().mean(1)
                    spread_B = (x_BLD - x_BLD.mean(1, keepdim=True)).square().sum(2).mean(1)
                    assert (distance_B / spread_B).mean() < 0.25


def test_a_list_of_equal_entries_is_the_single_value() -> None:
    single = make_model(hvq(codebook_size=9))
    listed = make_mixed(["vq"] * 3, [9] * 3, [0])
    for model in (single, listed):
        train_steps(model.train(), [make_batch()], num_steps=2)
    expected, found = single.predict(make_batch(seed=5)), listed.predict(make_batch(seed=5))
    assert torch.equal(found.maps_BHW, expected.maps_BHW)


def test_training_moves_the_codes_of_the_levels_with_vq() -> None:
    model = make_mixed(["vq", "fsq", "vq"], [5, 5, 7], [0])
    before = [level.codebook_MKD.clone() for level in model.network.vector_quantizers()]
    first, *_, last = train_steps(model.train(), [make_batch(seed=seed) for seed in range(2)], num_steps=20)
    assert last < first
    after = [level.codebook_MKD for level in model.network.vector_quantizers()]
    assert [codes.shape[1] for codes in after] == [5, 7]
    for old, new in zip(before, after, strict=True):
        assert not torch.equal(old, new)
