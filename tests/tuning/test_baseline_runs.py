"""Baselines beside the best model's results."""

from __future__ import annotations

import json
from pathlib import Path

from hvqray.baselines.measure import BaselineResult
from hvqray.config.run_config import config_hash
from hvqray.config.sections import RunConfig
from hvqray.results.events import TrialStart
from hvqray.tuning.baseline_runs import without_quantizer, write_baselines


def test_without_a_quantizer_all_else_stays() -> None:
    config = RunConfig.model_validate(
        {"model": {"name": "hvq", "width": 64}, "train": {"seed": 7}}
    ).model_dump(by_alias=True)
    start = TrialStart("t0004", 4, {"train.lr": 0.1}, config, "abc", seed=7)
    run = without_quantizer(start)
    assert run.trial_id == "t0004-no-quantizer"
    assert run.confirms == "t0004"
    assert run.seed == 7
    changed = RunConfig.model_validate(run.config)
    assert changed.model.quantizer == "none"
    assert run.config_hash == config_hash(changed) != start.config_hash
    assert {**run.config, "model": {**run.config["model"], "quantizer": "vq"}} == start.config
    assert start.config["model"]["quantizer"] == "vq"


def test_results_are_added_and_replaced_by_name(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"trial_id": "t0001", "metrics": {}}))
    write_baselines(tmp_path, [BaselineResult("padim", {}, {"test/image_auroc": 0.1})])
    write_baselines(tmp_path, [BaselineResult("no_quantizer", {}, {"test/image_auroc": None})])
    write_baselines(
        tmp_path, [BaselineResult("padim", {"image_score": "maximum"}, {"test/image_auroc": 0.2})]
    )
    record = json.loads(path.read_text())
    assert record["trial_id"] == "t0001"
    assert record["baselines"] == [
        {"name": "padim", "settings": {"image_score": "maximum"}, "metrics": {"test/image_auroc": 0.2}},
        {"name": "no_quantizer", "settings": {}, "metrics": {"test/image_auroc": None}},
    ]
