"""Latency of suggesting a trial, up to 1000 trials: the whole way through the sweep's search, against plain Optuna.

A round asks for a suggestion and tells the outcome of a trial that went through all its epochs, as a sweep does: in the
study on disk (SQLite), which is brought to the disk at the trial's end, with the driver's own bookkeeping. Plain Optuna asks the
same sampler in memory.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from benchmarks.measure import print_table, quick_flag, spread
from hvqray.config.sweep_file import SweepFile, load_sweep, resolve_run_config
from hvqray.results.events import TrialStart
from hvqray.training.epoch_report import EpochReport
from hvqray.tuning.ray_runtime import quieten_ray
from hvqray.tuning.resume import open_storage
from hvqray.tuning.samplers import make_sampler
from hvqray.tuning.space import SearchSpace

SPACE = Path(__file__).resolve().parents[1] / "search_spaces" / "hvq.yaml"
STUDY = "benchmark"
METRIC = "val/image_auroc"
SIZES = (10, 100, 300, 1000)
NUM_SUGGESTIONS = 20
NUM_EPOCHS = 8


def main(argv: Sequence[str] | None = None) -> None:
    quick = quick_flag("suggestion: latency with up to 1000 trials behind", argv)
    sweep = load_sweep(SPACE)
    rows = []
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = SearchSpace(sweep.parameters)
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES[:1] if quick else SIZES:
            finished = _finished_trials(space, size)
            filled = Path(folder) / f"{size}.db"
            optuna.create_study(
                study_name=STUDY, storage=open_storage(filled, STUDY), direction="maximize"
            ).add_trials(finished)
            for method in ("bayes", "random"):
                database = filled.with_name(f"{size}-{method}.db")
                shutil.copyfile(filled, database)
                sampler = make_sampler(method, 0, 1, space=space, num_trials=2 * size)
                num_suggestions = 2 if quick else NUM_SUGGESTIONS
                suggest, told = _in_a_sweep(sweep, database, sampler, num_suggestions)
                plain = _plain(space, finished, method, num_suggestions)
                rows.append([method, size, spread(1e3 * suggest), spread(1e3 * told), spread(1e3 * plain)])
    print_table(
        (
            "method",
            "trials behind",
            "suggest ms",
            "tell epochs and end ms",
            "plain Optuna, in memory: ask ms",
        ),
        rows,
    )


def _in_a_sweep(
    sweep: SweepFile, database: Path, sampler: optuna.samplers.BaseSampler, num_suggestions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds per suggestion, and seconds per trial for telling its epochs and its end."""
    quieten_ray()
    from hvqray.tuning.study_search import StudySearch

    search = StudySearch(
        SearchSpace(sweep.parameters),
        metrics=[METRIC],
        goals=["maximize"],
        sampler=sampler,
        study_name=STUDY,
        storage=open_storage(database, STUDY),
        resolve=lambda number, params: _start(sweep, number, params),
        announce=lambda start: None,
        to_config=lambda start: {"spec": json.dumps(asdict(start))},
        study_file=database,
    )
    suggest, told = [], []
    for number in range(num_suggestions):
        begun = time.perf_counter()
        search.suggest(str(number))
        suggested = time.perf_counter()
        for epoch in range(1, NUM_EPOCHS + 1):
            search.on_trial_result(str(number), _result(epoch))
        search.on_trial_complete(str(number), _result(NUM_EPOCHS))
        suggest.append(suggested - begun)
        told.append(time.perf_counter() - suggested)
    return np.array(suggest), np.array(told)


def _plain(
    space: SearchSpace, finished: list[optuna.trial.FrozenTrial], method: str, num_suggestions: int
) -> np.ndarray:
    """Seconds per suggestion of the same sampler, whose study lies in memory."""
    sampler = make_sampler(method, 0, 1, space=space, num_trials=2 * len(finished))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(finished)
    seconds = []
    for _ in range(num_suggestions):
        begun = time.perf_counter()
        trial = study.ask()
        space(trial)
        seconds.append(time.perf_counter() - begun)
        study.tell(trial, 0.5)
    return np.array(seconds)


def _finished_trials(space: SearchSpace, number: int) -> list[optuna.trial.FrozenTrial]:
    """Random ones, with values that depend on the parameters' order only."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    rng = np.random.default_rng(0)
    for _ in range(number):
        trial = study.ask()
        space(trial)
        study.tell(trial, float(rng.uniform()))
    return study.get_trials()


def _start(sweep: SweepFile, number: int, params: dict[str, Any]) -> TrialStart:
    run = resolve_run_config(sweep, params)
    return TrialStart(f"t{number:04d}", number, params, run.model_dump(mode="json", by_alias=True), "", 0)


def _result(epoch: int) -> dict[str, Any]:
    metrics: dict[str, float | None] = {METRIC: 0.5 + 0.01 * epoch}
    is_last = epoch == NUM_EPOCHS
    report = EpochReport(epoch, NUM_EPOCHS, metrics, 1.0, is_last=is_last, best_epoch=epoch, selected=metrics)
    return {"epoch": epoch, "report": json.dumps(asdict(report)), **metrics}


if __name__ == "__main__":
    main()
