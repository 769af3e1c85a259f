"""One sweep from the checked file to the report: data, Ray, search, confirmation, best model, summary."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from hvqray.atomic import make_folder, remove_empty
from hvqray.config.sweep_file import SweepFile
from hvqray.data.dataset import PreparedData
from hvqray.environment import all_gpus
from hvqray.errors import counted
from hvqray.results.confirm_store import ConfirmStore, read_confirm_runs
from hvqray.results.confirmation import ConfirmedConfiguration
from hvqray.results.events import Goal
from hvqray.results.history import TrialRecord
from hvqray.results.html_report import build_html_report
from hvqray.results.live_table import LiveTable
from hvqray.results.store import SweepStore
from hvqray.results.stored_trials import read_trials, read_unfinished
from hvqray.results.summary import print_summary
from hvqray.results.wandb_mode import resolve_mode
from hvqray.results.wording import VAL_IS_TEST
from hvqray.tuning.baseline_runs import hold_against_baselines
from hvqray.tuning.best import FOLDER, best_confirmed, best_trials, install_best
from hvqray.tuning.confirm import (
    completed_runs,
    configurations_to_confirm,
    confirmed_configuration,
    held_against_best,
    run_confirmation,
)
from hvqray.tuning.kept_models import KeptModels, remove_maps_without_models
from hvqray.tuning.measured import measure_runs, not_measured
from hvqray.tuning.resources import plan_resources
from hvqray.tuning.runner import run_search
from hvqray.tuning.same_data import check_same_data, data_record
from hvqray.tuning.session_checks import trials_in_all
from hvqray.tuning.shared_folder import check_shared
from hvqray.tuning.sweep_data import prepare_for_sweep
from hvqray.tuning.taken_over import take_over
from hvqray.tuning.tune_run import SearchPlan

logger = logging.getLogger(__name__)

MOST_AHEAD = 16
"""Combinations of searched data whose features are computed before a sweep that only time ends; with a number of trials, that many."""

INTERRUPT_GRACE_S = 5.0
"""How long Ctrl-C waits for W&B to take what it was given."""


@dataclass(frozen=True)
class SweepOptions:
    """What the command line says besides the sweep file."""

    out: Path
    resume: bool = False
    wandb: str | None = None
    time_budget_s: float | None = None
    cache_dir: Path | None = None
    cache_limit_bytes: int | None = None


class SweepSession:
    """A sweep that `check_before_ray` let pass and that is about to run in `folder` (OUT/NAME).

    `nodes` are the resources of each node of the Ray cluster that this process has joined.
    """

    def __init__(
        self,
        sweep: SweepFile,
        options: SweepOptions,
        nodes: Sequence[Mapping[str, float]],
        console: Console,
    ) -> None:
        self.sweep, self.options, self.console = sweep, options, console
        self.folder = options.out / sweep.name
        self.goals: dict[str, Goal] = {metric.name: metric.goal for metric in sweep.metric}
        # Fixed fields may hold with the parameters only, such as an image size with the backbones that are searched.
        self.base = sweep.base_run_config()
        self.num_trials = trials_in_all(sweep, options.time_budget_s)
        self.nodes = nodes
        self.resources = plan_resources(sweep.resources, nodes)

    def describe(self) -> None:
        """Check the data and what goes with them, and say what would run."""
        wandb_mode, line = resolve_mode(self.options.wandb)
        data = self._prepare(most_ahead=1)
        self.console.print(self.sweep.to_yaml(), markup=False)
        self.console.print(f"{self._how_many()}; {self.resources.describe()}")
        self.console.print(f"classes: {', '.join(data.context.class_names)}")
        for name, split in data.splits.items():
            self.console.print(f"{name}: {len(split)} images, {int(split.is_anomalous.sum())} with a defect")
        if data.selected_on_test:
            self._say(VAL_IS_TEST)
        self.console.print(line or f"W&B: {wandb_mode}")
        self.console.print(f"results would go to {self.folder}", soft_wrap=True)

    def run(self) -> bool:
        """Run the sweep to its end; True if at least one trial was completed.

        Raises:
            InputError: The user can mend it; nothing was started, and nothing on disk is lost.
            KeyboardInterrupt: Everything finished is on disk.
        """
        wandb_mode, line = resolve_mode(self.options.wandb)
        if line:
            self._say(line)
        data = self._prepare(self.num_trials or MOST_AHEAD)
        if data.selected_on_test:
            self._say(VAL_IS_TEST)
        made = make_folder(self.folder, option="--out")
        if len(self.nodes) > 1:
            try:
                check_shared(self.folder, self.resources)
            except BaseException:
                remove_empty(made)
                raise
        # Held to the end: no other process may start this sweep while its best model is being measured.
        with closing(self._store(data)) as store:
            self._say(f"{self._how_many()}; {self.resources.describe()}; results in {self.folder}")
            sink = self._wandb_sink(wandb_mode, store)
            try:
                has_best = self._run(store, self._plan(), sink)
            except BaseException:
                if sink:
                    sink.abandon(timeout_s=INTERRUPT_GRACE_S)
                raise
            if sink:
                sink.close()
            remove_maps_without_models(self.folder, read_trials(self.folder))
        if cut_off := read_unfinished(self.folder):
            names = ", ".join(start.trial_id for start in cut_off)
            self._say(f"{self._why_over()} goes on with what was cut off: {names}")
        report = build_html_report(self.folder)
        print_summary(self.console, self.folder)
        self._say(f"report: {report}")
        return has_best

    def _run(self, store: SweepStore, plan: SearchPlan, sink: Any) -> bool:
        """Search, confirm, and lay out the best model; False where there is none."""
        sinks = [sink] if sink else []
        with closing(self._table("trials", self.num_trials, read_trials(self.folder))) as table:
            kept = KeptModels(self.folder, self.goals, read_trials(self.folder))
            reached_by = run_search(self.sweep, plan, store, [table, *sinks, kept])
        trials = read_trials(self.folder)
        if reached_by is not None:
            metric = self.sweep.metric[0]
            self._say(
                f"{reached_by} reached the target, {metric.name} {metric.target:g}, which ends the search"
            )
        best = best_trials(trials, self.goals, 1)
        if not best:
            return False
        confirmed = self._confirm(trials, plan, store, sink) if self.sweep.confirm.top_k else []
        chosen = best_confirmed(confirmed, self.goals)
        if chosen is None:
            if confirmed:
                self._say("no configuration was trained on all seeds, so the best trial of the search counts")
            chosen = best[0].trial_id, best[0].trial_id
            self._say(f"measuring the best trial, {chosen[0]}, on test")
            self._measure([chosen[1]], plan)
        else:
            if len(confirmed) > 1:
                others = ", ".join(each.trial_id for each in confirmed if each.trial_id != chosen[0])
                self._say(f"comparing {chosen[0]}, the best over its seeds on val, with {others}")
            confirmed = held_against_best(self.folder, confirmed, chosen[0])
        if told := install_best(self.folder, *chosen, confirmed, baselines=self.sweep.baselines):
            self._say(told)
        if self.sweep.baselines:
            without_quantizer = hold_against_baselines(
                self.sweep,
                plan,
                *chosen,
                code_version=store.info.environment["code_version"],
                listeners=sinks,
                console=self.console,
            )
            if sink and without_quantizer:
                sink.log_confirmed([without_quantizer])
        if sink:
            sink.log_best(self.folder / FOLDER)
        return True

    def _confirm(
        self, trials: Sequence[TrialRecord], plan: SearchPlan, store: SweepStore, sink: Any
    ) -> list[ConfirmedConfiguration]:
        """Retrain the best configurations over the seeds, and measure them on `test`."""
        confirm = self.sweep.confirm
        runs_of = configurations_to_confirm(self.folder, trials, self.goals, confirm)
        runs = [run for runs in runs_of.values() for run in runs]
        seeds = ", ".join(map(str, confirm.seeds))
        self._say(f"confirming {', '.join(runs_of)} with seeds {seeds}: {counted(len(runs), 'run')}")
        version = store.info.environment["code_version"]
        sinks = [sink] if sink else []
        with closing(ConfirmStore(self.folder, code_version=version)) as confirm_store:
            taken = take_over(self.folder, runs, [confirm_store, *sinks], code_version=version)
            for run_id, trial_id in taken.items():
                self._say(f"{run_id} is {trial_id}, which was trained with this seed")
            done = read_confirm_runs(self.folder)
            ended = (done[run.trial_id] for run in runs if run.trial_id in done)
            earlier = [run for run in ended if run.state != "FAIL"]  # those are tried again
            with closing(self._table("runs", len(runs), earlier)) as table:
                run_confirmation(self.sweep, plan, runs, confirm_store, [table, *sinks])
        complete = completed_runs(self.folder, runs)
        if pending := not_measured(self.folder, complete):
            self._say(f"measuring {counted(len(pending), 'run')} on test")
            self._measure(pending, plan)
        confirmed = [
            confirmed_configuration(self.folder, trial_id, runs) for trial_id, runs in runs_of.items()
        ]
        if sink:
            sink.log_confirmed(confirmed)
        return confirmed

    def _measure(self, run_ids: Sequence[str], plan: SearchPlan) -> None:
        measure_runs(self.folder, run_ids, resources=plan.resources, cache_dir=plan.cache_dir)

    def _plan(self) -> SearchPlan:
        return SearchPlan(
            folder=self.folder,
            num_trials=self.num_trials,
            resources=self.resources,
            cache_dir=self.options.cache_dir,
            time_budget_s=self.options.time_budget_s,
            seed=self.base.train.seed,
        )

    def _table(self, what: str, number: int | None, earlier: Sequence[TrialRecord]) -> LiveTable:
        return LiveTable(
            self.console,
            goals=self.goals,
            num_trials=number,
            time_budget_s=self.options.time_budget_s if what == "trials" else None,
            earlier=earlier,
            what=what,
        )

    def _prepare(self, most_ahead: int) -> PreparedData:
        """The data, and in the cache the features of all combinations of searched data if there are at most `most_ahead`."""
        data, self.resources = prepare_for_sweep(
            self.sweep,
            self.nodes,
            most_ahead=most_ahead,
            resources=self.resources,
            cache_dir=self.options.cache_dir,
            cache_limit_bytes=self.options.cache_limit_bytes,
            console=self.console,
        )
        if self.options.resume:
            check_same_data(data, self.folder)
        return data

    def _store(self, data: PreparedData) -> SweepStore:
        return SweepStore(
            self.folder,
            resume=self.options.resume,
            selected_on_test=data.selected_on_test,
            sweep_file=self.sweep.to_yaml(),
            data=data_record(data),
            gpus=all_gpus() if self.resources.gpus_per_worker else [],
        )

    def _wandb_sink(self, mode: str, store: SweepStore) -> Any:
        if mode == "disabled":
            return None
        from hvqray.results.wandb_sink import WandbSink

        return WandbSink(
            self.folder,
            mode="online" if mode == "online" else "offline",
            sweep_name=self.sweep.name,
            sweep_uid=store.info.uid,
            goals=self.goals,
            project=self.sweep.project,
            entity=self.sweep.entity,
            tell=self._say,
        )

    def _how_many(self) -> str:
        trials = "trials until the time is over"
        if self.num_trials is not None:
            trials = counted(self.num_trials, "trial")
        confirm = self.sweep.confirm
        if not confirm.top_k:
            return trials
        best = "the best configuration" if confirm.top_k == 1 else f"the {confirm.top_k} best configurations"
        return f"{trials}, then {best} over {counted(len(confirm.seeds), 'seed')}"

    def _why_over(self) -> str:
        """Why trials that were started have not ended, and what brings them to their end."""
        if self.num_trials is not None and len(read_trials(self.folder)) >= self.num_trials:
            return f"the number of trials, {self.num_trials}, is reached; --resume with a larger --num-trials"
        return "time is over; --resume"

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)
