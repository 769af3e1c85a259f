"""What a trial of the search is started with; whole searches run in the tests of sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from small_images import SPACE, write_space

from hvqray.config.run_config import config_hash
from hvqray.config.sections import RunConfig
from hvqray.config.sweep_file import SweepFile, load_sweep
from hvqray.results.events import TrialEnd, TrialState
from hvqray.results.store import SweepStore
from hvqray.training.epoch_report import EpochReport
from hvqray.tuning import runner
from hvqray.tuning.resources import TrialResources
from hvqray.tuning.runner import run_search, start_of
from hvqray.tuning.study_search import StudySearch
from hvqray.tuning.trial import WORTH_KEY
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


METRIC = "val/image_auroc"


class Driver:
    """Stands for Tune: starts as many trials as it is asked for, and plays the ends of the first ones."""

    def __init__(self, *ends: tuple[float, TrialState]) -> None:
        self._ends = ends
        self.asked: dict[str, Any] = {}
        self.params: list[dict[str, Any]] = []

    def run(self, tmp_path: Path, overrides: Sequence[str], num_trials: int) -> None:
        sweep = load_sweep(write_space(tmp_path), overrides)
        folder = tmp_path / "runs"
        resume = (folder / ".state").exists()
        with closing(SweepStore(folder, resume=resume, selected_on_test=False)) as self._store:
            plan = SearchPlan(folder, num_trials, RESOURCES, None, None, seed=0)
            run_search(sweep, plan, self._store, [])

    def __call__(
        self, sweep: SweepFile, plan: SearchPlan, *, search: StudySearch, num_samples: int, **asked: Any
    ) -> None:
        self.asked = {"num_samples": num_samples, "search": search, **asked}
        for number in range(num_samples):
            if search.suggest(f"tune-{number}") == "FINISHED":
                break
            trial = search.study.trials[-1]
            self.params.append(trial.params)
            if number < len(self._ends):
                value, state = self._ends[number]
                trial_id = f"t{trial.number:04d}"
                for epoch, reached in ((1, value), (2, value - 0.25)):
                    self._store.on_epoch(trial_id, EpochReport(epoch, 2, {METRIC: reached}, 1.0))
                end = TrialEnd(trial_id, state, {METRIC: value}, 2, 1.0)
                self._store.on_trial_end(end)


def driven(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *ends: tuple[float, TrialState],
    overrides: Sequence[str] = (),
    num_trials: int = 3,
) -> Driver:
    driver = Driver(*ends)
    monkeypatch.setattr(runner, "run_on_tune", driver)
    driver.run(tmp_path, overrides, num_trials)
    return driver


def test_a_resumed_search_runs_what_is_left_and_repeats_no_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = driven(monkeypatch, tmp_path, (0.5, "COMPLETE"), (0.6, "FAIL"), num_trials=2)
    resumed = driven(monkeypatch, tmp_path, num_trials=5)
    assert (first.asked["num_samples"], resumed.asked["num_samples"]) == (2, 3)
    drawn = [params["train.lr"] for params in first.params + resumed.params]
    assert len(drawn) == len(set(drawn)) == 5


def test_a_search_resumed_before_any_trial_has_ended_repeats_no_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = driven(monkeypatch, tmp_path, num_trials=2)
    resumed = driven(monkeypatch, tmp_path, num_trials=5)
    drawn = [trial.params["train.lr"] for trial in resumed.asked["search"].study.get_trials(deepcopy=False)]
    assert drawn[:2] == [params["train.lr"] for params in first.params]
    assert len(drawn) == len(set(drawn)) == 5


def test_an_interrupted_trial_is_one_of_those_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = driven(monkeypatch, tmp_path, (0.5, "COMPLETE"), num_trials=2)
    resumed = driven(monkeypatch, tmp_path, num_trials=3)
    assert resumed.asked["num_samples"] == 2
    assert len(resumed.asked["search"].study.trials) == 3
    assert resumed.asked["search"].study.trials[1].params == first.params[1]


@pytest.mark.parametrize(("goal", "stopped"), [("maximize", 0.5), ("minimize", 0.9)])
def test_early_stopping_goes_by_the_goal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goal: str, stopped: float
) -> None:
    stop = ["early_terminate={type: hyperband, min_iter: 1}", f"metric.goal={goal}", "train.epochs=4"]
    scheduler = driven(monkeypatch, tmp_path, overrides=stop).asked["scheduler"]
    decisions = {}
    for value in sorted((0.5, 0.7, 0.9), key=lambda value: value == stopped):
        trial = SimpleNamespace(trial_id=str(value))
        scheduler.on_trial_add(None, trial)
        decisions[value] = scheduler.on_trial_result(None, trial, {"epoch": 1, WORTH_KEY: value})
    assert decisions[stopped] == TrialScheduler.STOP
    assert TrialScheduler.CONTINUE in decisions.values()


@pytest.mark.parametrize(("kept", "worth"), [("best", 0.5), ("last", 0.25)])
def test_ended_trials_count_by_the_epoch_that_they_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str, worth: float
) -> None:
    stop = ["early_terminate={type: hyperband, min_iter: 2}", "train.epochs=4", f"train.checkpoint={kept}"]
    driven(monkeypatch, tmp_path, (0.5, "COMPLETE"), overrides=stop, num_trials=1)
    scheduler = driven(monkeypatch, tmp_path, overrides=stop, num_trials=2).asked["scheduler"]
    assert f"Iter 2.000: {worth}" in scheduler.debug_string()


@pytest.mark.parametrize(("goal", "handed_out"), [("maximize", 3), ("minimize", 1)])
def test_a_target_reached_by_an_earlier_driver_goes_by_the_goal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goal: str, handed_out: int
) -> None:
    target = [f"metric={{name: {METRIC}, goal: {goal}, target: 0.6}}"]
    first = driven(monkeypatch, tmp_path, (0.5, "COMPLETE"), overrides=target, num_trials=1)
    resumed = driven(monkeypatch, tmp_path, overrides=target)
    assert len(first.params + resumed.params) == handed_out


def test_the_length_of_the_search_scales_its_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = driven(monkeypatch, tmp_path, overrides=["method=bayes"]).asked["search"]
    assert search.study.sampler._n_startup_trials == 3
