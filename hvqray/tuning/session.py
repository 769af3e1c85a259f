"""One sweep from the checked file to the report: data, Ray, search, best model, summary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hvqray.atomic import write_atomically
from hvqray.config.sections import DataConfig, TrainConfig
from hvqray.config.sweep_file import SweepFile, check_metric_classes, load_sweep
from hvqray.data.dataset import PreparedData
from hvqray.data.prepare import prepare_data
from hvqray.data.progress import progress_bar
from hvqray.errors import InputError
from hvqray.results.events import Goal, SweepListener
from hvqray.results.html_report import build_html_report
from hvqray.results.live_table import LiveTable
from hvqray.results.store import SweepStore, journal_path, read_trials, read_unfinished
from hvqray.results.summary import print_summary
from hvqray.results.wandb_mode import resolve_mode
from hvqray.tuning.best import best_trial, install_best
from hvqray.tuning.ray_runtime import ray_session
from hvqray.tuning.resources import TrialResources, plan_resources
from hvqray.tuning.runner import SearchPlan, run_search
from hvqray.tuning.samplers import EXHAUSTIVE, make_sampler
from hvqray.tuning.space import SearchSpace

MAY_CHANGE_ON_RESUME = ("run_cap", "resources", "description", "project", "entity")


INTERRUPT_GRACE_S = 5.0
"""How long Ctrl-C waits for W&B to take what it was given."""


@dataclass(frozen=True)
class SweepOptions:
    """What the command line says besides the sweep file."""

    out: Path
    resume: bool = False
    address: str | None = None
    wandb: str | None = None
    time_budget_s: float | None = None
    cache_dir: Path | None = None


class SweepSession:
    """A sweep that is about to run in `folder` (OUT/NAME)."""

    def __init__(self, sweep: SweepFile, options: SweepOptions, console: Console) -> None:
        self.sweep, self.options, self.console = sweep, options, console
        self.folder = options.out / sweep.name
        self.goals: dict[str, Goal] = {metric.name: metric.goal for metric in sweep.metric}
        self.data_config = DataConfig.model_validate(sweep.data)
        self.num_trials = _num_trials(sweep)
        if self.num_trials is None and options.time_budget_s is None:
            raise InputError(
                "is null, so the sweep would never end; give it, --num-trials or --time-budget",
                source=f"sweep {sweep.name}",
                field="run_cap",
            )
        self._check_method()
        if sweep.confirm.top_k:
            raise InputError(
                f"{sweep.confirm.top_k} asks for retraining that this version does not do yet; set it to 0",
                source=f"sweep {sweep.name}",
                field="confirm.top_k",
            )

    def describe(self) -> None:
        """Check everything that can be checked without running, and say what would run."""
        wandb_mode, line = resolve_mode(self.options.wandb)
        self._check_folder()
        data = self._prepare()
        with ray_session(self.options.address) as nodes:
            resources = plan_resources(self.sweep.resources, nodes)
        self.console.print(self.sweep.to_yaml(), markup=False)
        self.console.print(f"{self._how_many()}; {resources.describe()}")
        self.console.print(f"classes: {', '.join(data.context.class_names)}")
        for name, split in data.splits.items():
            self.console.print(f"{name}: {len(split)} images, {int(split.is_anomalous.sum())} with a defect")
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
        self._check_folder()
        data = self._prepare()
        if data.selected_on_test:
            self._say("selected on test: data.validation.from is none, so val is the test split")
        with ray_session(self.options.address) as nodes:
            resources = plan_resources(self.sweep.resources, nodes)
            self._make_folder()
            if not self.options.resume:
                # Before the journal: a folder with a journal can be resumed, which takes the sweep file.
                write_atomically(self.folder / "sweep.yaml", self.sweep.to_yaml())
            store = SweepStore(self.folder, resume=self.options.resume)
            if self.options.resume:
                write_atomically(self.folder / "sweep.yaml", self.sweep.to_yaml())
            self._say(f"{self._how_many()}; {resources.describe()}; results in {self.folder}")
            sink = self._wandb_sink(wandb_mode, store)
            try:
                self._search(store, resources, [sink] if sink else [])
                best = best_trial(read_trials(self.folder), self.goals)
                if best is not None:
                    self._say(f"measuring the best trial, {best.trial_id}, on test")
                    install_best(
                        self.folder, best.trial_id, resources=resources, cache_dir=self.options.cache_dir
                    )
                    if sink:
                        sink.log_best(self.folder / "best")
            except BaseException:
                if sink:
                    sink.close(timeout_s=INTERRUPT_GRACE_S)
                raise
            if sink:
                sink.close()
        if cut_off := read_unfinished(self.folder):
            names = ", ".join(start.trial_id for start in cut_off)
            self._say(f"time is over; --resume goes on with what was cut off: {names}")
        report = build_html_report(self.folder)
        print_summary(self.console, self.folder)
        self._say(f"report: {report}")
        return best is not None

    def _search(self, store: SweepStore, resources: TrialResources, sinks: list[SweepListener]) -> None:
        plan = SearchPlan(
            folder=self.folder,
            num_trials=self.num_trials,
            resources=resources,
            cache_dir=self.options.cache_dir,
            time_budget_s=self.options.time_budget_s,
            seed=TrainConfig.model_validate(self.sweep.train).seed,
        )
        table = LiveTable(
            self.console,
            goals=self.goals,
            num_trials=self.num_trials,
            time_budget_s=self.options.time_budget_s,
            earlier=read_trials(self.folder),
        )
        try:
            run_search(self.sweep, plan, store, [table, *sinks])
        finally:
            table.close()
            store.close()

    def _prepare(self) -> PreparedData:
        use_gpu = torch.cuda.is_available() and self.sweep.resources.gpus_per_worker != 0
        with progress_bar(self.console) as progress:
            data = prepare_data(
                self.data_config,
                cache_dir=self.options.cache_dir,
                device="cuda" if use_gpu else "cpu",
                progress=progress,
            )
        if use_gpu:
            torch.cuda.empty_cache()  # the trials want the memory
        check_metric_classes(self.sweep, data.context.class_names)
        return data

    def _wandb_sink(self, mode: str, store: SweepStore) -> Any:
        if mode == "disabled":
            return None
        from hvqray.results.wandb_sink import (
            WandbSink,
        )  # importing wandb takes a second that most sweeps do not need

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

    def _check_method(self) -> None:
        """Whether the method can search the space: told before anything is on disk."""
        sweep = self.sweep
        try:
            make_sampler(sweep.method, 0, len(sweep.metric), space=SearchSpace(sweep.parameters))
        except InputError as error:
            raise InputError(str(error), source=f"sweep {sweep.name}") from None

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"results cannot be written there ({error.strerror}); choose another folder",
                field=f"--out {self.options.out}",
            ) from None

    def _check_folder(self) -> None:
        """A new sweep finds no other one in its folder, a resumed one finds itself."""
        if self.options.resume:
            self._check_same_sweep()
        elif journal_path(self.folder).exists():
            raise InputError(
                "already holds a sweep; add --resume to go on with it, or choose another name",
                source=str(self.folder),
            )
        elif (study := self.folder / "study.db").exists():
            raise InputError(
                "is left of another search, whose journal is gone; remove it, or choose another name",
                source=str(study),
            )

    def _check_same_sweep(self) -> None:
        """A resumed sweep may get more trials or other resources; anything else would mix two searches."""
        path = self.folder / "sweep.yaml"
        if not path.is_file():
            raise InputError(
                "holds no sweep to resume; leave out --resume to start it", source=str(self.folder)
            )
        before, now = load_sweep(path).model_dump(), self.sweep.model_dump()
        changed = [name for name in now if now[name] != before[name] and name not in MAY_CHANGE_ON_RESUME]
        if changed:
            raise InputError(
                f"{', '.join(changed)} differ from what the sweep was begun with; take the changes back, or choose another"
                " name with --set name=NAME",
                source=str(path),
            )

    def _how_many(self) -> str:
        return "trials until the time is over" if self.num_trials is None else f"{self.num_trials} trials"

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)


def _num_trials(sweep: SweepFile) -> int | None:
    """Trials in all; None where only time ends the sweep."""
    # Only a grid has an end of its own; other samplers may try a configuration twice.
    size = SearchSpace(sweep.parameters).grid_size() if sweep.method in EXHAUSTIVE else None
    return min((number for number in (sweep.run_cap, size) if number is not None), default=None)
