"""What is refused before a model is built."""

from __future__ import annotations

from typing import Any

import pytest

from hvqray.config.model_sections import HvqConfig, SquadConfig
from hvqray.errors import InputError
from hvqray.models.build import build_model
from hvqray.models.context import ModelContext


@pytest.mark.parametrize(
    ("model", "num_classes", "told"),
    [
        ({}, 15, "for each of 15 classes, 21.5 GiB in all, over 8"),
        ({"router": "none"}, 15, "locations, 9.5 GiB in all, over 8"),
        ({"router": "none", "map_coarse_weight": 0.1}, 15, "locations, 12.1 GiB in all, over 8"),
    ],
)
def test_matrices_that_would_fill_the_memory_are_refused_in_one_line(
    model: dict[str, Any], num_classes: int, told: str
) -> None:
    context = ModelContext(tuple(f"class{c}" for c in range(num_classes)), 768, (28, 28), 392)
    config = HvqConfig.model_validate({"map_distance": "local_mahalanobis"} | model)
    with pytest.raises(InputError) as refused:
        build_model(config, context)
    text = str(refused.value)
    assert text.startswith("model.map_distance: local_mahalanobis takes a 768 x 768 matrix at 28 x 28 ")
    assert told in text
    assert "choose mahalanobis" in text


def test_one_matrix_for_all_locations_is_not_refused() -> None:
    context = ModelContext(("cookie",), 768, (28, 28), 392)
    config = SquadConfig(name="squad", width=8, image_head=False, map_distance="mahalanobis")
    assert build_model(config, context)
