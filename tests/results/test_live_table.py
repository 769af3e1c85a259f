from __future__ import annotations

import io
import pickle
import re
import sys
from dataclasses import replace

import pytest
from fake_sweep import OBJECTIVE, play, start_of
from rich.console import Console

from hvqray.results import live_table
from hvqray.results.events import Goal, TrialEnd
from hvqray.results.history import TrialRecord
from hvqray.results.live_table import LiveTable
from hvqray.training.epoch_report import EpochReport


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(live_table, "time", clock)
    return clock


def plain_table(
    *, num_trials: int | None = 4, time_budget_s: float | None = None, **more: list
) -> tuple[LiveTable, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=60)
    table = LiveTable(
        console, goals={OBJECTIVE: "maximize"}, num_trials=num_trials, time_budget_s=time_budget_s, **more
    )
    return table, out


def test_a_line_an_event_without_a_terminal() -> None:
    table, out = plain_table()
    for number in (0, 4):
        play(table, number)
    table.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 2 + 3 + 1 + 2
    assert lines[0] == "t0000 started: lr=0.01 codebook_size=32 quantizer=vq"
    assert lines[1].startswith("t0000 epoch 1/3: val/image_auroc 0.65")
    assert lines[1].endswith("(10 s)")
    assert "t0000 COMPLETE after 3 epochs, 30 s: val/image_auroc 0.7341" in lines[4]
    assert "RuntimeError: <b>out of memory</b>" in lines[-1]
    assert "2/4 trials ended, 1 failed, best val/image_auroc 0.7341 (t0000)" in lines[-1]
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_live_table_on_a_terminal(environment: dict[str, str], coloured: bool) -> None:
    out = io.StringIO()
    console = Console(
        file=out, width=100, force_terminal=True, _environ={"TERM": "xterm-256color", **environment}
    )
    table = LiveTable(console, goals={OBJECTIVE: "maximize"}, num_trials=4, time_budget_s=None)
    play(table, 0)
    table.close()
    assert "t0000" in out.getvalue()
    assert "started" not in out.getvalue()
    assert (re.search(r"\x1b\[[\d;]*32m", out.getvalue()) is not None) is coloured


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_is_told_amidst_the_table_goes_above_it(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written straight to the terminal it would be gone with the table's next picture."""
    errors = io.StringIO()
    monkeypatch.setattr(errors, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stderr", errors)
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, _environ={"TERM": "xterm-256color"})
    table = LiveTable(console, goals={OBJECTIVE: "maximize"}, num_trials=4, time_budget_s=None)
    sys.stderr.write("t0001 starts again\n")
    table.close()
    assert ("t0001 starts again" in out.getvalue()) is is_terminal
    assert ("t0001 starts again" in errors.getvalue()) is not is_terminal
    assert sys.stderr is errors


def test_a_dumb_terminal_gets_lines() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, _environ={"TERM": "dumb"})
    table = LiveTable(console, goals={OBJECTIVE: "maximize"}, num_trials=4, time_budget_s=None)
    play(table, 0)
    assert "t0000 started" in out.getvalue()


def shown(table: LiveTable, *, width: int = 140) -> list[list[str]]:
    out = io.StringIO()
    Console(file=out, width=width).print(table.render())
    return [line.split() for line in out.getvalue().splitlines()]


def test_rows_are_the_running_then_the_best_and_no_more_than_twelve() -> None:
    table, _ = plain_table(num_trials=40)
    for number in range(20):
        play(table, number)
    table.on_trial_start(start_of(30))
    table.on_epoch("t0030", EpochReport(2, 8, {OBJECTIVE: 0.1}, 5.0, selected={OBJECTIVE: 0.2}))
    rows = shown(table)
    assert rows[1][:2] == ["t0030", "RUNNING"]
    assert "2/8" in rows[1]
    assert "0.2000" in rows[1]
    values = [float(row[-4]) for row in rows[2:13]]
    assert values == sorted(values, reverse=True)
    assert rows[13] == ["…", "and", "9", "more"]
    assert rows[14][0] == "20/40"


@pytest.mark.parametrize(
    ("width", "wanted"),
    [
        (120, ["state", "parameters", "epoch", "val/pixel_aupro", "time", "memory", "on GPU"]),
        (60, ["state", "epoch", "image_auroc", "pixel_aupro", "time"]),
        (40, ["image_auroc", "pixel_aupro"]),
        (25, ["image_auroc"]),
    ],
)
def test_ids_and_figures_are_whole_on_a_narrow_terminal(width: int, wanted: list[str]) -> None:
    goals: dict[str, Goal] = {OBJECTIVE: "maximize", "val/pixel_aupro": "maximize"}
    table = LiveTable(Console(file=io.StringIO()), goals=goals, num_trials=8, time_budget_s=None)
    for number in range(3):
        play(table, number)
    table.on_trial_start(start_of(6))
    metrics = {OBJECTIVE: 0.1, "val/pixel_aupro": 0.00051}
    report = EpochReport(2, 8, metrics, 5000.0, peak_memory_bytes=1_700_000_000, peak_gpu_bytes=3_100_000_000)
    table.on_epoch("t0006", report)
    at = next(index for index, row in enumerate(shown(table, width=width)) if row[0] == "trial")
    heading, running, *ended = shown(table, width=width)[at : at + 5]
    assert [running[0], *(row[0] for row in ended)] == ["t0006", "t0002", "t0001", "t0000"]
    assert "0.1000" in running
    told = {
        "state": "RUNNING",
        "epoch": "2/8",
        "pixel_aupro": "0.00051",
        "time": "1 h 23 min",
        "memory": "1.7 GB",
    }
    for name, text in told.items():
        assert (name in " ".join(heading)) is (text in " ".join(running))
    assert all(name in " ".join(heading) for name in wanted)


def test_best_is_a_complete_trial_and_follows_the_goal() -> None:
    out = io.StringIO()
    table = LiveTable(Console(file=out), goals={"loss": "minimize"}, num_trials=None, time_budget_s=None)
    for number, state, value in (
        (0, "COMPLETE", 0.5),
        (1, "PRUNED", 0.1),
        (2, "COMPLETE", 0.4),
        (3, "COMPLETE", None),
    ):
        table.on_trial_start(start_of(number))
        table.on_trial_end(TrialEnd(f"t{number:04d}", state, {"loss": value}, 1, 1.0))  # type: ignore[arg-type]
    assert table.status() == "4 trials ended, 1 pruned, best loss 0.4000 (t0002)"


def test_time_left_follows_the_work_done_and_the_budget(clock: Clock) -> None:
    earlier = [TrialRecord("t0090", 90, "COMPLETE", {}, {OBJECTIVE: 0.9}, 3, 9.0, "h", 0, None, "v")]
    table, _ = plain_table(num_trials=5, time_budget_s=1000.0, earlier=earlier)
    assert table.status() == "1/5 trials ended, best val/image_auroc 0.9000 (t0090), about 16 min 40 s left"
    clock.now += 10  # the workers start
    table.on_trial_start(start_of(0))
    clock.now += 25
    table.on_epoch("t0000", EpochReport(1, 8, {OBJECTIVE: 0.5}, 25.0))
    clock.now += 75
    table.on_epoch("t0000", EpochReport(4, 8, {OBJECTIVE: 0.5}, 100.0))
    # Half of one of four trials in 100 s: three and a half are left.
    assert table.status().endswith("about 11 min 40 s left")
    clock.now += 840
    assert table.status().endswith("about 50 s left")


def test_a_wait_for_room_is_no_pace(clock: Clock) -> None:
    table, _ = plain_table(num_trials=2)
    table.on_trial_start(start_of(0))
    clock.now += 3600
    table.on_epoch("t0000", EpochReport(1, 8, {OBJECTIVE: 0.5}, 10.0))
    # An eighth of a trial in 10 s: fifteen eighths are left.
    assert table.status().endswith("about 2 min 30 s left")


def test_epochs_of_an_earlier_start_are_no_pace_of_this_one(clock: Clock) -> None:
    table, _ = plain_table(num_trials=2)
    table.on_trial_start(start_of(0))
    table.on_epoch("t0000", EpochReport(6, 8, {OBJECTIVE: 0.5}, 60.0))
    assert "left" not in table.status()
    clock.now += 10
    table.on_epoch("t0000", EpochReport(7, 8, {OBJECTIVE: 0.5}, 70.0))
    # An eighth of a trial in 10 s: nine eighths are left.
    assert table.status().endswith("about 1 min 30 s left")


def test_a_running_trial_s_time_goes_on_between_its_reports(clock: Clock) -> None:
    table, _ = plain_table()
    start = start_of(0)
    table.on_trial_start(replace(start, config={**start.config, "train": {"epochs": 8}}))
    clock.now += 7
    assert shown(table)[1][-4:] == ["0/8", "-", "-", "-"], "its worker may still be starting"
    table.on_epoch("t0000", EpochReport(1, 8, {OBJECTIVE: 0.5}, 5.0, selected={OBJECTIVE: 0.5}))
    clock.now += 3
    assert shown(table)[1][-5:] == ["1/8", "0.5000", "8", "s", "-"]


def test_memory_of_trials_and_driver_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_table, "resident_bytes", lambda: 861_400_000)
    table, out = plain_table()
    for number in (0, 1):
        table.on_trial_start(start_of(number))
    table.on_epoch("t0000", EpochReport(1, 8, {OBJECTIVE: 0.5}, 5.0, peak_memory_bytes=1_690_000_000))
    rows = shown(table)
    assert rows[0][-1] == "memory"
    assert rows[1][-2:] == ["1.7", "GB"]
    assert rows[2][-1] == "-"
    assert rows[-1][-3:] == ["driver", "861", "MB"]
    table.on_trial_end(TrialEnd("t0000", "COMPLETE", {OBJECTIVE: 0.5}, 1, 5.0))
    assert shown(table)[2][-2:] == ["1.7", "GB"]
    started, epoch, ended = out.getvalue().splitlines()[1:]
    assert "GB" not in started + epoch
    assert ended.startswith("t0000 COMPLETE after 1 epoch, 5 s, 1.7 GB: val/image_auroc 0.5000; ")


@pytest.mark.parametrize(("limit", "cell"), [(18_900_000_000, "3.1/18.9 GB"), (None, "3.1 GB")])
def test_gpu_memory_is_shown_with_the_slot_s_bound(limit: int | None, cell: str) -> None:
    table, out = plain_table()
    table.on_trial_start(start_of(0))
    report = EpochReport(
        1,
        8,
        {OBJECTIVE: 0.5},
        5.0,
        peak_memory_bytes=1_700_000_000,
        peak_gpu_bytes=3_100_000_000,
        gpu_limit_bytes=limit,
    )
    table.on_epoch("t0000", report)
    rows = shown(table)
    assert rows[0][-3:] == ["memory", "on", "GPU"]
    assert " ".join(rows[1]).endswith(f" 1.7 GB {cell}")
    table.on_trial_end(TrialEnd("t0000", "COMPLETE", {OBJECTIVE: 0.5}, 1, 5.0))
    assert f", 5 s, 1.7 GB, GPU {cell}: " in out.getvalue().splitlines()[-1]


def test_a_copy_in_another_process_is_silent() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "xterm"})
    table = LiveTable(console, goals={OBJECTIVE: "maximize"}, num_trials=4, time_budget_s=None)
    play(table, 0)
    copy = pickle.loads(pickle.dumps(table))
    table.close()
    play(copy, 1)
    assert copy.status().startswith("2/4 trials ended")
    copy.close()


def test_names_are_no_markup() -> None:
    table, out = plain_table()
    table.on_trial_start(start_of(0))
    table.on_trial_end(TrialEnd("t0000", "FAIL", {}, 0, 1.0, error="ValueError: [red]list[/red] [0, 1]"))
    assert "[red]list[/red] [0, 1]" in out.getvalue()
