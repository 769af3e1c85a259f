"""Codes are of the data's size from the first step on, which in the published code they are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_cases import CHANNELS, hvq, make_batch, make_model, train_steps
from scipy.spatial.distance import cdist
from scipy.special import softmax
from torch import Tensor

from hvqray.models.batch import Batch
from hvqray.models.hvq import HvqModel
from hvqray.quantizers.vq import VectorQuantizer

INITS = ["normal", "kmeans"]


def young_model(codebook_init: str, **fields: object) -> HvqModel:
    model = make_model(hvq(codebook_init=codebook_init, ot_weight=80.0, ot_levels=[0, 1], **fields))
    assert isinstance(model, HvqModel)
    return model


def level_inputs(model: HvqModel, batch: Batch) -> list[Tensor]:
    """What each level quantises, in the order of `vector_quantizers`."""
    with torch.no_grad():
        states = model.network.encode(model.standardizer(batch.features_BChw))
        latents = model.network.quantize(states, batch.class_index_B)
    return [states[-1], *latents.lower_input_BLW]


@pytest.mark.parametrize("codebook_init", INITS)
def test_every_one_of_the_first_steps_leaves_finite_codes_and_maps(codebook_init: str) -> None:
    model = young_model(codebook_init, dropout=0.0)
    start = [level.codebook_MKD.norm(dim=-1).amax() for level in model.network.vector_quantizers()]
    for step in range(6):
        batch = make_batch(seed=step)
        if step < 3:  # one class after the other, so that the others stay young
            batch = Batch(batch.features_BChw[step::3], batch.class_index_B[step::3])
        norms = [x_BLD.norm(dim=-1) for x_BLD in level_inputs(model.train(), batch)]
        train_steps(model, [batch], num_steps=1)
        for level, largest, norm in zip(model.network.vector_quantizers(), start, norms, strict=True):
            assert level.codebook_MKD.isfinite().all()
            assert level.codebook_MKD.norm(dim=-1).max() <= 1.5 * max(largest, norm.max())
        prediction = model.predict(make_batch(seed=50 + step))
        assert prediction.maps_BHW.isfinite().all()
        # OT is at most 2 at either level; a standardised feature has a norm about the root of their number.
        assert prediction.maps_BHW.max() < 2 * 2 * 80 + 10 * CHANNELS**0.5


@pytest.mark.parametrize("codebook_init", INITS)
def test_codes_that_nothing_chooses_do_not_grow(codebook_init: str) -> None:
    model = young_model(codebook_init, codebook_size=32).train()
    for step in range(4):
        levels = model.network.vector_quantizers()
        before = [level.codebook_MKD.norm(dim=-1) for level in levels]
        batch = make_batch(3, seed=step)
        model.random.begin_step(step, rows=slice(None), num_rows=3)
        model.loss(batch, 0.0)
        chosen = [level._statistics()[1] > 0 for level in levels]
        model.after_step()
        assert any((~of_level).any() for of_level in chosen)
        for level, norm, of_level in zip(levels, before, chosen, strict=True):
            grown = level.codebook_MKD.norm(dim=-1) / norm
            assert (grown[~of_level] <= 1.001).all()


def transport_cost_of(level: VectorQuantizer, x_BLD: Tensor, class_index_B: Tensor) -> np.ndarray:
    """The formula, token by token, in float64, over the codes of the class that were used."""
    rows = []
    for x_LD, y in zip(x_BLD.double().numpy(), class_index_B.tolist(), strict=True):
        codes = level.codebook_MKD[y][level.used_MK[y]].double().numpy()
        share = softmax(x_LD @ codes.T / level.codebook_size, axis=1)
        rows.append((share * cdist(x_LD, codes, "cosine")).sum(1))
    return np.stack(rows)


@pytest.mark.parametrize("codebook_init", INITS)
def test_codes_never_used_take_no_part_in_the_transport_cost(codebook_init: str) -> None:
    """Wherever they lie: here as far away as the published code throws them."""
    # More codes than a class has tokens, so that k-means leaves some over too.
    model = young_model(codebook_init, codebook_size=400)
    train_steps(model, [make_batch(3)], num_steps=2)
    batch = make_batch(3, seed=9)
    classes_B = batch.class_index_B
    for level, x_BLD in zip(
        model.network.vector_quantizers(), level_inputs(model.eval(), batch), strict=True
    ):
        unused_MK = ~level.used_MK
        assert unused_MK.any(1).all()
        assert level.used_MK.any(1).all()
        expected = transport_cost_of(level, x_BLD, classes_B)
        np.testing.assert_allclose(level.transport_cost(x_BLD, classes_B), expected, rtol=1e-3)
        level.codebook_MKD[unused_MK] *= 1e5
        np.testing.assert_allclose(level.transport_cost(x_BLD, classes_B), expected, rtol=1e-3)
        level.used_MK.fill_(True)
        assert (level.transport_cost(x_BLD, classes_B) - torch.from_numpy(expected)).abs().min() > 0.01
