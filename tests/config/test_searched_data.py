"""Which data the trials of a sweep can have."""

from __future__ import annotations

from typing import Any

from hvqray.config.searched_data import data_configs
from hvqray.config.sweep_file import SweepFile


def found(parameters: dict[str, Any], data: dict[str, Any] | None = None) -> list[tuple[str, int, int]]:
    metric = {"name": "val/image_auroc", "goal": "maximize"}
    given = {"name": "s", "method": "random", "metric": metric, "run_cap": 1, "data": data or {}}
    configs = data_configs(SweepFile.model_validate(given | {"parameters": parameters}))
    return [(each.backbone.name, each.image_size, each.backbone.grid_stride) for each in configs]


def test_nothing_searched_is_one() -> None:
    assert found({"train.lr": {"min": 1e-4, "max": 1e-3}}, {"image_size": 64}) == [
        ("tf_efficientnet_lite0", 64, 16)
    ]


def test_every_combination_once_the_base_first() -> None:
    parameters = {
        "data.image_size": {"values": [64, 96]},
        "model.width": {"values": [32, 64]},
        "data.backbone.name": {"values": ["resnet18", "resnet34"]},
    }
    assert found(parameters, {"backbone": {"grid_stride": 8}}) == [
        ("resnet18", 64, 8),
        ("resnet34", 64, 8),
        ("resnet18", 96, 8),
        ("resnet34", 96, 8),
    ]


def test_a_range_of_steps_is_all_of_its_values() -> None:
    sizes = [
        size
        for _, size, _ in found(
            {"data.image_size": {"min": 64, "max": 128, "q": 32, "distribution": "q_uniform"}}
        )
    ]
    assert sizes == [64, 96, 128]


def test_conditions_are_heeded_also_those_on_other_sections() -> None:
    parameters = {
        "model.name": {"values": ["hvq", "squad"]},
        "data.backbone.name": {"values": ["resnet18", "resnet34"], "when": {"model.name": "squad"}},
        "data.backbone.grid_stride": {"values": [8, 32], "when": {"data.backbone.name": "resnet34"}},
    }
    assert found(parameters) == [
        ("tf_efficientnet_lite0", 224, 16),
        ("resnet18", 224, 16),
        ("resnet34", 224, 8),
        ("resnet34", 224, 32),
    ]


def test_a_triple_that_is_no_configuration_is_left_to_its_trial() -> None:
    """Each pair of these holds with the first of the third; 336 pixels are no multiple of 32 with a backbone that has strides."""
    parameters = {
        "data.backbone.name": {"values": ["vit_small_patch14_dinov2", "resnet18"]},
        "data.image_size": {"values": [224, 336]},
        "data.backbone.grid_stride": {"values": [16, 32]},
    }
    combinations = found(parameters)
    assert len(combinations) == 7
    assert ("resnet18", 336, 32) not in combinations
