"""Progress of a running sweep in the terminal: a live table, or a line an event where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from hvqray.errors import counted
from hvqray.process_memory import resident_bytes
from hvqray.results import wording
from hvqray.results.events import Goal, TrialEnd, TrialStart
from hvqray.results.history import Metrics, TrialRecord
from hvqray.results.narrowing_table import NarrowingColumn, NarrowingTable
from hvqray.results.ranking import is_better
from hvqray.training.epoch_report import EpochReport

_NUM_ROWS = 12
_STATE_STYLE = {"RUNNING": "cyan", "COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red"}
_STATE_WIDTH = max(map(len, _STATE_STYLE))  # so that the columns stay where they are when a trial ends
_PARAMETERS_WIDTH = 12


@dataclass
class _Row:
    trial_id: str
    number: int
    params: dict[str, Any]
    state: str = "RUNNING"
    epoch: int = 0
    num_epochs: int = 0
    metrics: Mapping[str, float | None] | None = None
    duration_s: float = 0.0
    memory_bytes: int | None = None
    gpu_bytes: int | None = None
    gpu_limit_bytes: int | None = None
    told_at_s: float = 0.0
    """When the trial was last heard of, by the monotonic clock."""
    begun_at_epoch: int = 0
    """Epochs that an earlier start of the sweep had trained."""
    earlier: bool = False
    """Whether the trial had ended before this start of the sweep."""

    @property
    def progress(self) -> float:
        """The share of its epochs that is done; all where it has ended."""
        return self.epoch / max(self.num_epochs, 1) if self.state == "RUNNING" else 1.0

    @property
    def progress_before(self) -> float:
        """The share that an earlier start had done."""
        return self.begun_at_epoch / max(self.num_epochs, 1)

    @property
    def gpu_memory(self) -> str:
        """`3.1 GB`, or of the slot's bound, `3.1/18.9 GB`, where the trial shares its GPU."""
        if self.gpu_bytes is None or self.gpu_limit_bytes is None:
            return wording.size(self.gpu_bytes)
        return f"{self.gpu_bytes / 1e9:.1f}/{self.gpu_limit_bytes / 1e9:.1f} GB"

    def value(self, name: str) -> float | None:
        return (self.metrics or {}).get(name)


class LiveTable:
    """The listener that shows running trials first, then the best, with the best so far and the time left.

    A trial's memory is the most that its process held (`EpochReport.peak_memory_bytes`), the driver's what it holds now.
    `goals` maps each objective to its goal; the first one orders the table. `num_trials` counts all trials of the
    sweep, those of `earlier` included; None means no limit. `time_budget_s` is in seconds from now. `what` is the word for
    that which is counted.
    """

    def __init__(
        self,
        console: Console,
        *,
        goals: Mapping[str, Goal],
        num_trials: int | None,
        time_budget_s: float | None,
        earlier: Sequence[TrialRecord] = (),
        what: str = "trials",
    ) -> None:
        self._console = console
        self._what = what
        self._goals = dict(goals)
        self._objective, self._goal = next(iter(self._goals.items()))
        self._num_trials = num_trials
        self._time_budget_s = time_budget_s
        self._began = time.monotonic()
        self._first_trial_told: float | None = None
        self._first_trial_began: float | None = None
        self._rows = {
            trial.trial_id: _Row(
                trial_id=trial.trial_id,
                number=trial.number,
                params=trial.params,
                state=trial.state,
                epoch=trial.epochs,
                num_epochs=trial.epochs,
                metrics=trial.metrics,
                duration_s=trial.duration_s,
                earlier=True,
            )
            for trial in earlier
        }
        self._live: Live | None = None
        if console.is_interactive:
            self._live = Live(
                console=console,
                get_renderable=self.render,
                refresh_per_second=2,
                transient=True,
                # What is written there amidst the table goes above it; where it goes into a file it stays there.
                redirect_stderr=sys.stderr.isatty(),
            )
            self._live.start()

    def __getstate__(self) -> dict[str, Any]:
        """Without the terminal: a copy in another process keeps the books and shows nothing."""
        return {**self.__dict__, "_live": None, "_console": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._console = Console(quiet=True, markup=False, emoji=False)

    def on_trial_start(self, event: TrialStart) -> None:
        if self._first_trial_told is None:
            self._first_trial_told = time.monotonic()
        row = _Row(event.trial_id, event.number, event.params)
        row.num_epochs = event.config.get("train", {}).get("epochs", 0)
        self._rows[event.trial_id] = row
        self._say(f"{event.trial_id} started: {wording.one_line(event.params)}")

    def on_epoch(self, trial_id: str, report: EpochReport) -> None:
        row = self._rows[trial_id]
        if self._first_trial_began is None:
            # Not when it was told of: it may have waited for room since, and that is no pace.
            self._first_trial_began = max(self._first_trial_told or 0.0, time.monotonic() - report.duration_s)
        if (
            row.epoch == 0 and report.epoch > 1
        ):  # it goes on, and tells the last epoch of the earlier start again
            row.begun_at_epoch = report.epoch
        row.told_at_s = time.monotonic()
        row.epoch, row.num_epochs, row.duration_s = report.epoch, report.num_epochs, report.duration_s
        row.metrics = report.selected or report.metrics
        row.memory_bytes = report.peak_memory_bytes
        row.gpu_bytes, row.gpu_limit_bytes = report.peak_gpu_bytes, report.gpu_limit_bytes
        self._say(
            f"{trial_id} epoch {report.epoch}/{report.num_epochs}: {self._objectives(report.metrics)}"
            f" ({wording.duration(report.duration_s)})"
        )

    def on_trial_end(self, event: TrialEnd) -> None:
        row = self._rows[event.trial_id]
        row.state, row.epoch, row.duration_s, row.metrics = (
            event.state,
            event.epochs,
            event.duration_s,
            event.metrics,
        )
        said = event.error or self._objectives(event.metrics)
        took = wording.duration(event.duration_s)
        if row.memory_bytes is not None:
            took += f", {wording.size(row.memory_bytes)}"
        if row.gpu_bytes is not None:
            took += f", GPU {row.gpu_memory}"
        self._say(
            f"{event.trial_id} {event.state} after {counted(event.epochs, 'epoch')}, {took}: {said}; {self.status()}"
        )

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def status(self) -> str:
        """One line: how many trials have ended and how, the best so far, the time left."""
        rows = list(self._rows.values())
        count = {state: sum(row.state == state for row in rows) for state in _STATE_STYLE}
        ended = len(rows) - count["RUNNING"]
        of_all = f"/{self._num_trials}" if self._num_trials else ""
        parts = [f"{ended}{of_all} {self._what} ended"]
        parts += [f"{count['PRUNED']} pruned"] if count["PRUNED"] else []
        parts += [f"{count['FAIL']} failed"] if count["FAIL"] else []
        best = self._best(rows)
        if best is not None:
            parts.append(
                f"best {self._objective} {wording.number(best.value(self._objective))} ({best.trial_id})"
            )
        left_s = self._time_left_s(rows)
        if left_s is not None:
            parts.append(f"about {wording.duration(left_s)} left")
        return ", ".join(parts)

    def render(self) -> RenderableType:
        """The table and the status line, with the driver's memory."""
        rows = list(self._rows.values())
        running = sorted((row for row in rows if row.state == "RUNNING"), key=lambda row: row.number)
        ended = sorted((row for row in rows if row.state != "RUNNING"), key=self._order)
        shown = [*running, *ended][:_NUM_ROWS]
        best = self._best(rows)
        # What is left out first, where a terminal is narrow, says the least of how the search goes.
        columns = [
            NarrowingColumn("trial", [row.trial_id for row in shown], justify="left"),
            NarrowingColumn(
                "state",
                [Text(row.state.ljust(_STATE_WIDTH), style=_STATE_STYLE[row.state]) for row in shown],
                left_out=5,
                justify="left",
            ),
            NarrowingColumn(
                "parameters",
                [wording.one_line(row.params) for row in shown],
                left_out=2,
                justify="left",
                least_width=_PARAMETERS_WIDTH,
            ),
            NarrowingColumn(
                "epoch",
                [f"{row.epoch}/{row.num_epochs}" if row.num_epochs else "-" for row in shown],
                left_out=4,
            ),
            *(
                NarrowingColumn(
                    name,
                    [wording.number(row.value(name)) for row in shown],
                    left_out=None if name == self._objective else 6,
                )
                for name in self._goals
            ),
            NarrowingColumn("time", [self._duration(row) for row in shown], left_out=3),
            NarrowingColumn("memory", [wording.size(row.memory_bytes) for row in shown], left_out=1),
        ]
        if any(row.gpu_bytes is not None for row in shown):
            columns.append(NarrowingColumn("on GPU", [row.gpu_memory for row in shown], left_out=0))
        table = NarrowingTable(columns, ["bold" if row is best else None for row in shown])
        more = len(rows) - len(shown)
        lines = [Text(f"… and {more} more", style="dim")] if more else []
        status = f"{self.status()}; driver {wording.size(resident_bytes())}"
        return Group(table, *lines, Text(status, style="bold"))

    def _best(self, rows: list[_Row]) -> _Row | None:
        best = None
        for row in rows:
            if row.state == "COMPLETE" and is_better(
                row.value(self._objective), best.value(self._objective) if best else None, self._goal
            ):
                best = row
        return best

    def _order(self, row: _Row) -> tuple[bool, bool, float]:
        value = row.value(self._objective)
        signed = 0.0 if value is None else -value if self._goal == "maximize" else value
        return row.state == "FAIL", value is None, signed

    def _time_left_s(self, rows: list[_Row]) -> float | None:
        """From the pace of this start's trials, epochs of running ones included, since the first of them began."""
        now = time.monotonic()
        estimates = []
        if self._time_budget_s is not None:
            estimates.append(self._time_budget_s - (now - self._began))
        if self._num_trials is not None and self._first_trial_began is not None:
            left = self._num_trials - sum(row.progress for row in rows)
            done = sum(row.progress - row.progress_before for row in rows if not row.earlier)
            if done > 0:
                estimates.append((now - self._first_trial_began) * max(left, 0.0) / done)
        return max(min(estimates), 0.0) if estimates else None

    def _duration(self, row: _Row) -> str:
        """A running trial's time goes on between its reports; before the first, its worker may still be starting."""
        if row.state != "RUNNING":
            return wording.duration(row.duration_s)
        return wording.duration(row.duration_s + time.monotonic() - row.told_at_s) if row.epoch else "-"

    def _objectives(self, metrics: Metrics) -> str:
        return ", ".join(f"{name} {wording.number(metrics.get(name))}" for name in self._goals)

    def _say(self, line: str) -> None:
        if self._live is None:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
