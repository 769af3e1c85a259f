"""The best configuration, trained without a quantiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_images import write_space

from hvqray.config.run_config import config_hash
from hvqray.config.sections import RunConfig
from hvqray.config.sweep_file import load_sweep
from hvqray.results.confirmation import ConfirmedConfiguration
from hvqray.results.events import TrialStart
from hvqray.tuning import baseline_runs
from hvqray.tuning.baseline_runs import train_without_quantizer, without_quantizer
from hvqray.tuning.tune_run import SearchPlan


def test_without_a_quantizer_all_else_stays() -> None:
    config = RunConfig.model_validate(
        {"model": {"name": "hvq", "width": 64}, "train": {"seed": 7}}
    ).model_dump(by_alias=True)
    start = TrialStart("t0004", 4, {"train.lr": 0.1}, config, "abc", seed=7)
    run = without_quantizer(start, "t0004")
    assert run.trial_id == "t0004-no-quantizer"
    assert run.confirms == "t0004"
    assert run.seed == 7
    changed = RunConfig.model_validate(run.config)
    assert changed.model.quantizer == "none"
    assert run.config_hash == config_hash(changed) != start.config_hash
    assert {**run.config, "model": {**run.config["model"], "quantizer": "vq"}} == start.config
    assert start.config["model"]["quantizer"] == "vq"


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        (None, [("t0004-no-quantizer", 7)]),
        ([1, 2], [("t0004-s1-no-quantizer", 1), ("t0004-s2-no-quantizer", 2)]),
    ],
)
def test_it_is_trained_with_the_seeds_of_what_it_is_held_against(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seeds: list[int] | None,
    expected: list[tuple[str, int]],
) -> None:
    def train(sweep: Any, plan: Any, starts: list[TrialStart], *others: Any) -> None:
        trained.extend(starts)

    trained: list[TrialStart] = []
    config = RunConfig.model_validate({"model": {"name": "hvq"}, "train": {"seed": 7}}).model_dump(
        by_alias=True
    )
    start = TrialStart("t0004", 4, {}, config, "abc", seed=7)
    monkeypatch.setattr(baseline_runs, "read_starts", lambda folder: {"t0004": start})
    monkeypatch.setattr(baseline_runs, "run_confirmation", train)
    monkeypatch.setattr(baseline_runs, "measure_runs", lambda *arguments, **options: None)
    monkeypatch.setattr(baseline_runs, "completed_runs", lambda folder, runs: [])
    monkeypatch.setattr(
        baseline_runs,
        "confirmed_configuration",
        lambda folder, trial_id, runs: ConfirmedConfiguration(trial_id, [], [], {}, {}),
    )
    (tmp_path / ".state").mkdir()
    sweep = load_sweep(write_space(tmp_path))
    plan = SearchPlan(tmp_path, None, None, None, None, seed=0)  # type: ignore[arg-type]
    found = train_without_quantizer(sweep, plan, "t0004", seeds=seeds, code_version="1.0", listeners=[])
    assert found.trial_id == "t0004-no-quantizer"
    assert [(run.trial_id, run.seed) for run in trained] == expected
    assert {run.confirms for run in trained} == {"t0004"}
    assert {run.config["model"]["quantizer"] for run in trained} == {"none"}
    assert [run.config["train"]["seed"] for run in trained] == [seed for _, seed in expected]
