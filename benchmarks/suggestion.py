"""Latency of suggesting a trial, up to 1000 trials: the whole way through the sweep's search, against plain Optuna.

A round asks for a suggestion and tells the outcome of a trial that went through all its epochs, as a sweep does: in the
study on disk (SQLite), with the driver's own bookkeeping. Plain Optuna asks the same sampler in memory.
"""

from __future__ import annotations

import json
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
METRIC = "val/image_auroc"
SIZES = (10, 100, 300, 1000)
NUM_SUGGESTIONS = 20
NUM_EPOCHS = 8


def main(argv: Sequence[str] | None = None) -> None:
    quick = quick_flag("suggestion: latency with up to 1000 trials behind", argv)
    sweep = load_sweep(SPACE)
    rows = []
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for method in ("bayes", "random"):
        for size in SIZES[:1] if quick else SIZES:
            suggest, told, plain = _measure(sweep, method, size, 2 if quick else NUM_SUGGESTIONS)
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


def _measure(
    sweep: SweepFile, method: str, num_trials: int, num_suggestions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds per suggestion, per trial's telling, and per plain ask."""
    quieten_ray()
    from hvqray.tuning.study_search import StudySearch

    space = SearchSpace(sweep.parameters)
    finished = _finished_trials(space, num_trials)
    with tempfile.TemporaryDirectory() as folder:
        search = StudySearch(
            space,
            metrics=[METRIC],
            goals=["maximize"],
            sampler=make_sampler(method, 0, 1, space=space, num_trials=2 * num_trials),
            study_name="benchmark",
            storage=open_storage(Path(folder) / "study.db", "benchmark"),
            resolve=lambda number, params: _start(sweep, number, params),
            announce=lambda start: None,
            to_config=lambda start: {"spec": json.dumps(asdict(start))},
        )
        search.study.add_trials(finished)
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
    study = optuna.create_study(
        direction="maximize", sampler=make_sampler(method, 0, 1, space=space, num_trials=2 * num_trials)
    )
    study.add_trials(finished)
    plain = []
    for _ in range(num_suggestions):
        begun = time.perf_counter()
        trial = study.ask()
        space(trial)
        plain.append(time.perf_counter() - begun)
        study.tell(trial, 0.5)
    return np.array(suggest), np.array(told), np.array(plain)


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
