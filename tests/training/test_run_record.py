"""What a run writes beside its weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from model_cases import CONTEXT, hvq

from hvqray.config.sections import RunConfig, TrainConfig
from hvqray.data.dataset import PreparedData
from hvqray.models.build import build_model
from hvqray.training.run_record import run_record

LISTS = {
    "map_distance": "mahalanobis",
    "map_norm_weight": [0.0, 1.0],
    "score_from": ["fine", "both"],
    "score_top_fraction": [0.0, 0.1],
}


def record(classes: tuple[str, ...] = CONTEXT.class_names, **fields: Any) -> dict[str, Any]:
    """Of a model whose first class has the first rules, the others the last ones."""
    context = replace(CONTEXT, class_names=classes)
    config = RunConfig(model=hvq(**fields), train=TrainConfig(seed=5))
    model = build_model(config.model, context)
    num_routes = model.router.num_routes
    for choice in (model.image_score, model.map_choice):
        choice.choose([0] + [choice.num_rules - 1] * (num_routes - 1))
    data = PreparedData(context, {}, "of the data", selected_on_test=True, batchnorm=None)
    return run_record(
        config,
        data,
        model,
        trial_id="t0003",
        epoch=4,
        selected_by="val/mad",
        metrics={"val/mad": 0.5, "val/bolt/image_auroc": None},
        gpus=(),
    )


def test_it_says_what_was_measured_and_with_what() -> None:
    found = record()
    assert {name: found[name] for name in ("trial_id", "epoch", "selected_by", "selected_on_test")} == {
        "trial_id": "t0003",
        "epoch": 4,
        "selected_by": "val/mad",
        "selected_on_test": True,
    }
    assert found["metrics"] == {"val/mad": 0.5, "val/bolt/image_auroc": None}
    assert found["data_fingerprint"] == "of the data"
    assert found["environment"]["seed"] == 5
    assert {"code_version", "hardware", "torch"} <= found["environment"].keys()


def test_each_class_has_the_rules_that_it_was_given() -> None:
    found = record(**LISTS)
    assert found["map_norm_weight"] == {"bolt": 0.0, "cable": 1.0, "cookie": 1.0}
    assert found["score_from"] == {"bolt": "fine", "cable": "both", "cookie": "both"}
    assert found["score_top_fraction"] == {"bolt": 0.0, "cable": 0.1, "cookie": 0.1}
    assert found["map_code_weight"] == {"bolt": 0.0, "cable": 0.0, "cookie": 0.0}


def test_weights_are_told_as_they_count_in_the_map() -> None:
    weights = {"feature_codes": 4, "map_code_weight": 4.0, "map_coarse_weight": 0.5}
    found = record(**LISTS | weights | {"map_norm_weight": 0.0, "map_from": ["fine", "codes", "patches"]})
    assert found["map_code_weight"] == {"bolt": 0.0, "cable": 4.0, "cookie": 4.0}
    assert found["map_from"] == {"bolt": "fine", "cable": "patches", "cookie": "patches"}


@pytest.mark.parametrize(("classes", "router"), [(("bolt",), "oracle"), (CONTEXT.class_names, "none")])
def test_where_there_is_one_rule_for_all_it_is_told_without_classes(
    classes: tuple[str, ...], router: str
) -> None:
    found = record(classes, router=router, **LISTS)
    assert (found["map_norm_weight"], found["score_from"], found["score_top_fraction"]) == (0.0, "fine", 0.0)
