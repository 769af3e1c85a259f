"""Every benchmark runs through with --quick and prints a table.

Those that start whole commands get made-up ones here, for each takes a minute; test_commands.py runs a real one.
"""

from __future__ import annotations

import importlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import benchmarks
from benchmarks import sweep
from benchmarks.commands import Finished, Samples
from hvqray.config.sweep_file import load_sweep
from hvqray.config.yaml_loader import dump_yaml, load_yaml
from hvqray.results.stored_trials import journal_path
from hvqray.training.rule_choice import with_best_maps, with_best_scores

IN_PROCESS = ("train_step", "evaluate", "cache", "metrics", "suggestion")
WHOLE_COMMANDS = ("trial_gap", "trivial_trials", "slots", "second_sweep", "sweep")


def made_up_command(arguments: Sequence[str], *, folder: Path) -> Finished:
    """Trials 2 s apart in a sweep and 20 s in the reference; a machine that starts in 5 s."""
    started = time.time() - 100
    options = dict(itertools.pairwise(arguments))
    if arguments[0] == "-c":
        Path(arguments[2]).write_text(str(started + 5))
        return Finished(started, 6.0, [], Samples(), folder)
    if arguments[1] == "hvqray.sweep":
        load_sweep(Path(arguments[2]))  # What the command itself would refuse, it refuses here.
        num_trials, gap, space = int(options["--num-trials"]), 2, load_yaml(arguments[2])
        workers = space.get("resources", {}).get("workers", 1)
        steps_per_trial = space["train"]["images_per_epoch"] // space["train"]["batch_size"]
        rows = [
            {"number": n, "state": "COMPLETE", "duration_s": 1.5, "val/image_auroc": 0.9}
            for n in range(num_trials)
        ]
        (folder / "sweep" / ".state").mkdir(parents=True)
        events = [
            {"event": "epoch", "metrics": {"val/image_auroc": 0.4 + 0.1 * n}} for n in range(num_trials)
        ]
        journal_path(folder / "sweep").write_text("".join(json.dumps(event) + "\n" for event in events))
        pq.write_table(pa.Table.from_pylist(rows), folder / "sweep" / "trials.parquet")
        (folder / "sweep" / "best").mkdir()
        (folder / "sweep" / "best" / "config.yaml").write_text(dump_yaml({"model": space["model"]}))
    else:
        assert arguments[1] == "benchmarks.train_per_trial"
        if folder.name == "published":
            assert load_yaml(arguments[2])["model"]["dropout"] == 0.1
        workers, num_trials, gap = int(options.get("--workers", 1)), int(options.get("--trials", 1)), 20
        steps_per_trial = 1
        trials = [{"image_auroc": 0.5, "started": 0.0, "ended": 30.0}] * num_trials
        Path(arguments[3]).write_text(json.dumps(trials))
    ranks = [*range(workers)] * steps_per_trial
    steps = [(started + 10 + gap * n, rank) for n in range(num_trials) for rank in ranks]
    samples = Samples([10**8] * 3, [0, 10**8, 10**8], [0, 1, 1])
    return Finished(started, 60.0, steps, samples, folder)


def with_a_study(arguments: Sequence[str], *, folder: Path) -> Finished:
    """The same with a study, in which a trial ends 1.5 s after its last step."""
    done = made_up_command(arguments, folder=folder)
    study = optuna.create_study(study_name="made up", storage=f"sqlite:///{folder / 'sweep' / 'study.db'}")
    for last_step in sorted({step for step, _ in done.steps}):
        trial = optuna.trial.create_trial(value=0.9)
        trial.datetime_complete = datetime.fromtimestamp(last_step + 1.5)
        study.add_trial(trial)
    return done


@pytest.fixture
def _made_up_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("commands", "trial_gap", "second_sweep", "sweep"):
        monkeypatch.setattr(f"benchmarks.{module}.run_command", made_up_command)
    monkeypatch.setattr("benchmarks.commands.write_synthetic", lambda folder, **_: folder)


def _table_of(name: str, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    importlib.import_module(f"benchmarks.{name}").main(["--quick"])
    printed = capsys.readouterr().out
    assert "QUICK" in printed
    lines = [line.strip("| ") for line in printed.splitlines() if line.startswith("|")]
    return [line.split(" | ") for line in lines[2:]]


def test_every_benchmark_is_listed() -> None:
    (folder,) = benchmarks.__path__
    found = {path.stem for path in Path(folder).glob("*.py") if "def main(argv" in path.read_text()}
    assert found == {*IN_PROCESS, "rung", "same_result", *WHOLE_COMMANDS}


@pytest.mark.parametrize("name", IN_PROCESS)
def test_benchmark_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _table_of(name, capsys)


def test_a_rung_holds_what_the_loop_does_in_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = []
    for each in (with_best_maps, with_best_scores):

        def noting(*arguments: Any, each: Callable[..., Any] = each) -> Any:
            chosen.append(each.__name__)
            return each(*arguments)

        monkeypatch.setattr(f"hvqray.training.evaluation.{each.__name__}", noting)
    rows = _table_of("rung", capsys)
    assert [name for name, *_ in rows] == ["hvq", "squad"]
    assert all(float(seconds) > 0 and float(megabytes) > 1 for *_, seconds, megabytes in rows)
    assert {*chosen} == {"with_best_maps", "with_best_scores"}


def test_results_are_the_same_but_for_the_draws(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row for row in _table_of("same_result", capsys) if row[0] == "HVQ-Trans, tiny"]
    largest = {name: float(values[1]) for _, name, *values in rows}
    assert largest["the same again"] == 0
    for name in ("other draws of dropout", "dropout by torch's bernoulli_"):
        assert 1e-4 < largest[name] < 0.1
    for name in ("codebooks looped, one-hot sums", "backbone as timm gives it", "keys and values per token"):
        assert largest[name] < 1e-4


@pytest.mark.usefixtures("_made_up_commands")
class TestWholeCommands:
    def test_trial_gap_compares_the_gaps(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("benchmarks.commands.run_command", with_a_study)
        assert _table_of("trial_gap", capsys) == [
            ["trivial", "1", "20 (20 to 20)", "2 (2 to 2)", "10", "2.00", "0.5 (0.5 to 0.5)"],
            ["hvq.yaml", "1", "-", "2 (2 to 2)", "-", "2.00", "0.5 (0.5 to 0.5)"],
        ]

    def test_trivial_trials_tell_what_is_beyond_own_work(self, capsys: pytest.CaptureFixture[str]) -> None:
        ((method, trials, slots, _, wall, own, beyond, *_),) = _table_of("trivial_trials", capsys)
        assert [method, trials, slots, wall, own, beyond] == ["random", "4", "1", "2", "1.5", "0.5"]

    def test_slots_tell_trials_per_hour(self, capsys: pytest.CaptureFixture[str]) -> None:
        ((slots, _, _, per_hour, against_first, threads, *_),) = _table_of("slots", capsys)
        assert [slots, per_hour, against_first, threads] == ["1", "1800", "1.00", "1, 1"]

    def test_second_sweep_is_set_against_torch_and_ray_alone(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ((alone, second, ratio, *_),) = _table_of("second_sweep", capsys)
        assert [alone, second, ratio] == ["5 (5 to 5)", "10 (10 to 10)", "2 (2 to 2)"]

    def test_sweep_extrapolates_and_says_so(self, capsys: pytest.CaptureFixture[str]) -> None:
        sweep.main(["--quick"])
        printed = capsys.readouterr().out
        ours, published = [line for line in printed.splitlines() if line.startswith("|")][2:]
        assert ours.startswith("| this project | 60 | 0.9 |")
        assert published.startswith(
            "| published loop | 50 | 0.5 | EXTRAPOLATED from one trial of 30 s and Train starts of 20 s"
        )
        assert "published / ours, equal steps: 0.8\n" in printed
        # The second of its epochs was as good, and ended with the second step.
        assert "the sweep 12 s, after 2 of its 2 epochs; one published trial 50 s: 4.2 times" in printed
