"""What a run writes beside its weights: the epoch that counts, its metrics, and what they were measured with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hvqray.config.sections import RunConfig
from hvqray.data.dataset import PreparedData
from hvqray.environment import code_version, hardware, library_versions
from hvqray.models.interface import AnomalyModel


def run_record(
    config: RunConfig,
    data: PreparedData,
    model: AnomalyModel,
    *,
    trial_id: str | None,
    epoch: int,
    selected_by: str,
    metrics: Mapping[str, float | None],
    gpus: Sequence[str],
) -> dict[str, Any]:
    """The content of metrics.json: of `epoch`, counted from 1, which the metric `selected_by` chose.

    `gpus` are the names of those it was trained on, one a rank.
    """
    return {
        "trial_id": trial_id,
        "epoch": epoch,
        "selected_on_test": data.selected_on_test,
        "selected_by": selected_by,
        "metrics": dict(metrics),
        **_chosen_rules(config, data, model),
        "data_fingerprint": data.fingerprint,
        "environment": {
            "code_version": code_version(),
            "hardware": hardware(gpus),
            "seed": config.train.seed,
            **library_versions(),
        },
    }


def _chosen_rules(config: RunConfig, data: PreparedData, model: AnomalyModel) -> dict[str, Any]:
    """What the fields of the configuration that may be lists come to: class name to value, where each class has its own."""
    names, score = data.context.class_names, model.image_score
    rule_R = [score.rules[rule] for rule in score.chosen_R.tolist()]
    weights = config.model.map_weights()
    weight_R = [weights[number] for number in model.map_choice.chosen_R.tolist()]
    applied: dict[str, list[Any]] = {
        "map_norm_weight": [weights.norm for weights in weight_R],
        "map_code_weight": [weights.codes + weights.patches for weights in weight_R],
        "map_from": [weights.source for weights in weight_R],
        "score_from": [source for source, _ in rule_R],
        "score_top_fraction": [share for _, share in rule_R],
    }
    has_classes = len(rule_R) == len(names) > 1
    return {
        field: dict(zip(names, values, strict=True)) if has_classes else values[0]
        for field, values in applied.items()
    }
