"""Sweeps that end at any time and are resumed: W&B has each run whole in the end, and nothing twice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import wandb
from fake_sweep import NUM_EPOCHS, OBJECTIVE, metrics_of, play, start_of, write_fake_sweep, write_maps
from wandb_files import new_sink, of_kind, offline_runs, records, summary_of

from hvqray.results.confirm_store import ConfirmStore
from hvqray.results.confirmation import ConfirmedConfiguration, Spread
from hvqray.results.events import SweepListener, TrialEnd
from hvqray.results.store import SweepStore
from hvqray.results.wandb_sink import WandbSink
from hvqray.training.epoch_report import EpochReport


@contextmanager
def process(folder: Path, mode: str, *, killed: bool) -> Iterator[tuple[list[SweepListener], WandbSink]]:
    """The listeners of one start of the sweep in `folder`, and W&B's among them; it is all open where the process is `killed`."""
    store = SweepStore(folder, resume=(folder / ".state").exists(), selected_on_test=False)
    said: list[str] = []
    sink = new_sink(folder, said, mode=mode, sweep_uid="0badcafe")
    yield [store, sink], sink
    if killed:
        sink.abandon(timeout_s=60)
    else:
        sink.close()
    store.close()
    assert said == []


def report(epoch: int, number: int) -> EpochReport:
    metrics = metrics_of(0.5 + 0.1 * epoch, seed=number)
    return EpochReport(epoch, NUM_EPOCHS, metrics, 10.0 * epoch, best_epoch=epoch, selected=metrics)


def begin_trial(listeners: list[SweepListener], number: int, *epochs: int) -> None:
    for listener in listeners:
        listener.on_trial_start(start_of(number))
        for epoch in epochs:
            listener.on_epoch(start_of(number).trial_id, report(epoch, number))


def end_trial(listeners: list[SweepListener], number: int) -> None:
    last = report(NUM_EPOCHS, number)
    for listener in listeners:
        listener.on_trial_end(
            TrialEnd(
                start_of(number).trial_id, "COMPLETE", last.selected, NUM_EPOCHS, 30.0, best_epoch=NUM_EPOCHS
            )
        )


def interrupt_twice_and_end(folder: Path, mode: str, trial_folder: Path) -> None:
    """t0000 ends, its run open since it is the best, and t0001 runs, goes on and ends; each process but the last is killed."""
    with process(folder, mode, killed=True) as (listeners, _):
        for listener in listeners:
            play(listener, 0, folder=trial_folder)
        begin_trial(listeners, 1, 1, 2)
    with process(folder, mode, killed=True) as (listeners, _):
        begin_trial(listeners, 1, 2)  # it reports again what its checkpoint is of
    with process(folder, mode, killed=False) as (listeners, _):
        begin_trial(listeners, 1, 2, 3)
        end_trial(listeners, 1)


def epochs_in(history: list[dict[str, Any]]) -> list[tuple[int, float]]:
    return [(item["epoch"], item["duration_s"]) for item in history if OBJECTIVE in item]


ALL_EPOCHS = [(1, 10.0), (2, 20.0), (3, 30.0)]


def test_offline_each_run_is_one_file_with_every_epoch_once(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    write_maps(tmp_path / "trial", per_class=1, size=16)
    interrupt_twice_and_end(folder, "offline", tmp_path / "trial")
    assert offline_runs(folder) == ["t0000", "t0001"], "no run has two files"
    for trial_id in ("t0000", "t0001"):
        found = records(folder, trial_id)
        history = [each["item"] for each in of_kind(found, "history")]
        assert epochs_in(history) == ALL_EPOCHS
        assert len(history) == NUM_EPOCHS + 1, "and one row for the table and what else its end brings"
        summary = summary_of(found)
        assert (summary["state"], summary["epoch"]) == ("COMPLETE", NUM_EPOCHS)
        (ended,) = of_kind(found, "exit")
        assert ended.get("exit_code", 0) == 0
    files = [file["path"] for each in of_kind(records(folder, "t0000"), "files") for file in each["files"]]
    assert any(path.startswith("media/images/examples") for path in files)


class Server:
    """Stands for W&B's: keeps what each run was told, over processes."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.num_opened = 0

    def init(self, **arguments: Any) -> Run:
        self.num_opened += 1
        run = self.runs.setdefault(arguments["name"], Run())
        run.is_open = True
        return run


class Run:
    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.artifacts: list[wandb.Artifact] = []
        self.is_open, self.exit_code = False, 0

    def define_metric(self, *names: Any, **more: Any) -> None: ...

    def log(self, row: dict[str, Any]) -> None:
        self.history.append(row)
        self.summary.update(row)

    def log_artifact(self, artifact: wandb.Artifact, aliases: list[str]) -> None:
        self.artifacts.append(artifact)

    def finish(self, exit_code: int) -> None:
        self.is_open, self.exit_code = False, exit_code


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(wandb, "init", server.init)
    return server


def test_online_the_server_is_told_what_it_does_not_have(tmp_path: Path, server: Server) -> None:
    interrupt_twice_and_end(tmp_path / "sweep", "online", tmp_path / "trial")
    for run in server.runs.values():
        assert epochs_in(run.history) == ALL_EPOCHS
        assert sum("per_class" in row for row in run.history) == 1
        assert (run.summary["state"], run.summary["epoch"]) == ("COMPLETE", NUM_EPOCHS)
        assert not run.is_open


def test_rows_that_never_reached_the_server_are_told_again(tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "sweep"
    with process(folder, "online", killed=True) as (listeners, _):
        begin_trial(listeners, 0, 1, 2)
    run = server.runs["t0000"]
    run.summary = run.history.pop(0)
    run.history.clear()
    with process(folder, "online", killed=True) as (listeners, _):
        begin_trial(listeners, 0, 3)
        end_trial(listeners, 0)
    server.runs["t0000"] = Run()
    with process(folder, "online", killed=False):
        pass
    assert epochs_in(run.history) == ALL_EPOCHS[1:], "the first was there"
    assert epochs_in(server.runs["t0000"].history) == ALL_EPOCHS, "also of a trial that had ended"
    assert server.runs["t0000"].summary["state"] == "COMPLETE"


def test_a_kill_while_results_are_filed_tells_no_epoch_again(tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "sweep"
    with process(folder, "online", killed=True) as (listeners, _):
        for listener in listeners:
            play(listener, 0)
    run = server.runs["t0000"]
    assert run.summary["best_epoch"] < NUM_EPOCHS
    run.summary["epoch"] = run.summary["best_epoch"]
    with process(folder, "online", killed=False):
        pass
    assert epochs_in(run.history) == ALL_EPOCHS


def file_best(folder: Path, mode: str) -> None:
    with process(folder, mode, killed=False) as (_, sink):
        sink.log_best(folder / "best")


def test_a_finished_sweep_is_not_filed_again(tmp_path: Path, server: Server) -> None:
    folder = write_fake_sweep(tmp_path / "sweep", num_trials=1)
    for _ in range(2):
        file_best(folder, "online")
    (run,) = server.runs.values()
    assert server.num_opened == 1
    assert len(run.artifacts) == 1
    assert [row["epoch"] for row in run.history if "per_class_test" in row] == [NUM_EPOCHS]
    assert run.summary["epoch"] == NUM_EPOCHS, "of the whole run, which is told first"
    assert epochs_in(run.history) == ALL_EPOCHS
    metrics = folder / "best" / "metrics.json"
    metrics.write_text(metrics.read_text().replace(f'"epoch": {NUM_EPOCHS}', '"epoch": 1'))
    file_best(folder, "online")
    assert len(run.artifacts) == 2, "another model is"
    assert epochs_in(run.history) == ALL_EPOCHS


def test_a_finished_sweep_gets_no_more_offline_files(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "sweep", num_trials=1)
    file_best(folder, "offline")
    (before,) = (folder / "wandb").glob("offline-run-*")
    file_best(folder, "offline")
    assert list((folder / "wandb").glob("offline-run-*")) == [before]
    shutil.rmtree(before)  # as after `wandb sync` and `wandb clean`
    file_best(folder, "offline")
    assert offline_runs(folder) == []


def test_a_retraining_run_that_was_not_measured_yet_gets_its_results(tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "sweep"
    start = replace(start_of(0), trial_id="t0000-s1", confirms="t0000")
    end = TrialEnd("t0000-s1", "COMPLETE", {OBJECTIVE: 0.75}, 1, 10.0)
    with process(folder, "online", killed=True) as ((_, sink), _):
        confirm = ConfirmStore(folder, code_version="1.0")
        for listener in (confirm, sink):
            listener.on_trial_start(start)
            listener.on_epoch("t0000-s1", report(1, 0))
            listener.on_trial_end(end)
        confirm.close()
    with process(folder, "online", killed=False) as (_, sink):
        metrics = {"test/mad": Spread([0.5], 0.5, None)}
        sink.log_confirmed([ConfirmedConfiguration("t0000", [1], ["t0000-s1"], metrics, {})])
    run = server.runs["t0000-s1"]
    assert run.summary["test/mad"] == 0.5
    assert epochs_in(run.history) == ALL_EPOCHS[:1]


@pytest.mark.parametrize("known", [True, False])
def test_a_retraining_run_that_wandb_never_opened_is_told_where_it_has_the_trial(
    tmp_path: Path, server: Server, known: bool
) -> None:
    """Runs that trials stand for end within a moment, and a process may be killed before W&B has opened them."""
    folder = tmp_path / "sweep"
    start = replace(start_of(0), trial_id="t0000-s0", confirms="t0000")
    with process(folder, "online", killed=True) as (listeners, _):
        for listener in listeners if known else listeners[:1]:
            play(listener, 0)
        confirm = ConfirmStore(folder, code_version="1.0")
        confirm.on_trial_start(start)
        confirm.on_epoch("t0000-s0", report(1, 0))
        confirm.on_trial_end(TrialEnd("t0000-s0", "COMPLETE", {OBJECTIVE: 0.75}, 1, 10.0))
        confirm.close()
    with process(folder, "online", killed=False) as (_, sink):
        metrics = {"test/mad": Spread([0.5], 0.5, None)}
        sink.log_confirmed([ConfirmedConfiguration("t0000", [0], ["t0000-s0"], metrics, {})])
    assert ("t0000-s0" in server.runs) == known, "what W&B was never told of it is not told of later"
    if known:
        run = server.runs["t0000-s0"]
        assert run.summary["test/mad"] == 0.5
        assert epochs_in(run.history) == ALL_EPOCHS[:1]


def test_a_retraining_run_that_failed_is_filed_as_its_second_attempt(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    start = replace(start_of(0), trial_id="t0000-s1", confirms="t0000")
    for state, epochs in (("FAIL", (1, 2)), ("COMPLETE", (1, 2, 3))):
        with process(folder, "offline", killed=False) as ((_, sink), _):
            confirm = ConfirmStore(folder, code_version="1.0")
            for listener in (confirm, sink):
                listener.on_trial_start(start)
                for epoch in epochs:
                    listener.on_epoch("t0000-s1", report(epoch, 0))
                error = "it diverged" if state == "FAIL" else None
                listener.on_trial_end(TrialEnd("t0000-s1", state, {}, len(epochs), 9.0, error=error))  # type: ignore[arg-type]
            confirm.close()
    assert offline_runs(folder) == ["t0000-s1"]
    found = records(folder, "t0000-s1")
    assert epochs_in([each["item"] for each in of_kind(found, "history")]) == ALL_EPOCHS
    assert "error" not in summary_of(found)
    assert summary_of(found)["state"] == "COMPLETE"


def test_online_a_second_attempt_has_no_error_of_the_first(tmp_path: Path, server: Server) -> None:
    for state, error in (("FAIL", "it diverged"), ("COMPLETE", None)):
        with process(tmp_path / "sweep", "online", killed=False) as ((_, sink), _):
            sink.on_trial_start(replace(start_of(0), trial_id="t0000-s1", confirms="t0000"))
            sink.on_trial_end(TrialEnd("t0000-s1", state, {}, 1, 9.0, error=error))  # type: ignore[arg-type]
    assert server.runs["t0000-s1"].summary == {"state": "COMPLETE", "epochs": 1}


def test_offline_logs_without_a_record_go_with_a_new_start(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    run_folder = folder / "wandb" / "offline-run-20260101_000000-0badcafe-t0000"
    run_folder.mkdir(parents=True)
    (run_folder / "run-0badcafe-t0000.wandb").write_bytes(b":W&B\x24\xbe\x00")
    with process(folder, "offline", killed=False):
        pass
    assert not run_folder.exists()
