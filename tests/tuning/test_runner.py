"""What a trial of the search is started with; whole searches run in the tests of sweeps."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from small_images import SPACE, write_space

from hvqray.config.run_config import config_hash
from hvqray.config.sections import RunConfig
from hvqray.config.sweep_file import SweepFile, load_sweep
from hvqray.results.store import SweepStore
from hvqray.tuning import runner
from hvqray.tuning.resources import TrialResources
from hvqray.tuning.runner import run_search, start_of
from hvqray.tuning.study_search import StudySearch
from hvqray.tuning.tune_run import SearchPlan

RESOURCES = TrialResources(workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, max_concurrent_trials=2)
SEARCHED = "  model.codebook_size: {values: [4, 8]}\n"
POOLS = [4, 96, *range(5, 21)]
SIZES = f"{SEARCHED}  model.score_pool_size: {{values: {POOLS}}}\n  data.image_size: {{values: [128, 64]}}\n"


@pytest.fixture
def sweep(tmp_path: Path) -> SweepFile:
    """A space in which a window of 96 pixels fits an image of 128 only; load pairs the ends of so long a list across sections."""
    text = SPACE.replace(SEARCHED, SIZES).replace("score_pool_size: 4}", "dropout: 0.2}")
    text = text.replace("data: {image_size: 64, ", "data: {").replace("train: {", "train: {seed: 7, ")
    return load_sweep(write_space(tmp_path, text))


def params(pool: int, size: int) -> dict[str, object]:
    return {
        "model.codebook_size": 4,
        "train.lr": 1e-3,
        "model.score_pool_size": pool,
        "data.image_size": size,
    }


def test_a_trial_has_the_whole_configuration(sweep: SweepFile) -> None:
    start = start_of(sweep, 12, params(96, 128))
    run = RunConfig.model_validate(start.config)
    assert (start.trial_id, start.number, start.seed) == ("t0012", 12, 7)
    assert (run.model.score_pool_size, run.data.image_size, run.train.lr) == (96, 128, 1e-3)
    assert start.config_hash == config_hash(run)


def test_parameters_that_do_not_go_together_make_a_trial_too(sweep: SweepFile) -> None:
    start = start_of(sweep, 3, params(96, 64))
    assert (start.trial_id, start.config_hash, start.seed) == ("t0003", "", 7)
    assert start.params == params(96, 64)
    with pytest.raises(ValueError, match=r"96 exceeds data\.image_size 64"):
        RunConfig.model_validate(start.config)


def test_a_grid_goes_through_the_steps_of_a_logarithmic_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []

    def play(sweep: SweepFile, plan: SearchPlan, *, search: StudySearch, **others: object) -> None:
        for number in range(plan.num_trials or 0):
            search.suggest(f"tune-{number}")
        found.extend(trial.params["train.batch_size"] for trial in search.study.trials)

    monkeypatch.setattr(runner, "run_on_tune", play)
    steps = "{distribution: q_log_uniform_values, min: 2, max: 6, q: 2}"
    text = SPACE.replace("method: random", "method: grid").replace("batch_size: 4, ", "")
    head, _, tail = text.partition("parameters:\n")
    model = tail[tail.index("model:") :]
    one = load_sweep(write_space(tmp_path, f"{head}parameters:\n  train.batch_size: {steps}\n{model}"))
    with closing(SweepStore(tmp_path / "runs", resume=False, selected_on_test=False)) as store:
        run_search(one, SearchPlan(tmp_path / "runs", 3, RESOURCES, None, None, seed=0), store, [])
    assert sorted(found) == [2, 4, 6]
