"""Any number of classes, with every router and quantiser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from model_cases import hvq, squad, train_steps

from hvqray.models.batch import Batch
from hvqray.models.build import build_model
from hvqray.models.context import ModelContext


@pytest.mark.parametrize("num_classes", [1, 2, 15])
@pytest.mark.parametrize(
    "config",
    [
        hvq(router="oracle"),
        hvq(router="predicted"),
        hvq(router="none"),
        hvq(router="predicted", quantizer="fsq"),
        squad(image_head=False),
        squad(image_head=False, router="predicted"),
    ],
    ids=["oracle", "predicted", "none", "fsq", "squad", "squad-predicted"],
)
def test_it_trains_and_predicts(num_classes: int, config: object) -> None:
    torch.manual_seed(0)
    context = ModelContext(tuple(f"part {y}" for y in range(num_classes)), 5, (3, 3), 24)
    model = build_model(config, context)
    labels = torch.arange(num_classes).repeat(2)
    pattern = torch.randn(num_classes, 5, 3, 3)

    def batches() -> Iterator[Batch]:
        for _ in range(2):
            yield Batch(pattern[labels] + 0.1 * torch.randn(len(labels), 5, 3, 3), labels)

    model.random.begin_step(0, rows=slice(None), num_rows=len(labels))
    model.prepare(batches, seed=0)
    first, *_, last = train_steps(model, list(batches()), num_steps=5)
    assert last < first
    prediction = model.predict(next(batches()))
    assert prediction.maps_BHW.shape == (2 * num_classes, 24, 24)
    assert prediction.maps_BHW.isfinite().all()
    if config.router == "predicted":
        assert prediction.routed_class_B is not None
        assert torch.equal(prediction.routed_class_B, labels)
    else:
        assert prediction.routed_class_B is None
