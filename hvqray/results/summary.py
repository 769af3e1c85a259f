"""What a sweep prints when it is over: its trials, and the best one's results per class."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from hvqray.errors import counted
from hvqray.results import wording
from hvqray.results.baseline_table import print_baselines
from hvqray.results.class_table import class_table
from hvqray.results.configuration_differences import difference_lines
from hvqray.results.confirm_table import print_confirmed
from hvqray.results.ranking import ranked
from hvqray.results.stored_trials import read_info, read_trials
from hvqray.results.sweep_folder import read_best, read_description
from hvqray.results.terminal_table import FigureRow, FigureTable, results_table

_NUM_ROWS = 30


def print_summary(console: Console, folder: Path) -> None:
    """The trials of the sweep in `folder`, best first, and the best one's seven metrics per class on `val` and `test`.

    Raises InputError where `folder` is not a sweep's.
    """
    description = read_description(folder)
    trials = ranked(read_trials(folder), description.goals)
    rows = [
        FigureRow(
            trial.trial_id,
            [
                Text(trial.state, justify="left"),
                *(wording.number(trial.metrics.get(name)) for name in description.goals),
                str(trial.epochs),
                wording.duration(trial.duration_s),
            ],
        )
        for trial in trials[:_NUM_ROWS]
    ]
    labels: list[str | Text] = [Text("state", justify="left"), *description.goals, "epochs", "time"]
    console.print(FigureTable(f"{description.name}: {counted(len(trials), 'trial')}", "trial", labels, rows))
    for trial in trials[:_NUM_ROWS]:  # below the table, since a column for each would not fit a terminal
        line = f"{trial.trial_id}: {wording.one_line(trial.params)}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print()
    if len(trials) > _NUM_ROWS:
        console.print(f"and {len(trials) - _NUM_ROWS} more in trials.parquet", highlight=False)
    for trial in trials:
        if trial.state == "FAIL":
            console.print(
                f"{trial.trial_id} failed: {trial.error}",
                style="red",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    best = read_best(folder)
    if best is None:
        console.print("There is no best model: no trial was completed and evaluated.", highlight=False)
        return
    mark = " (selected on test)" if best.selected_on_test else ""
    for split in ("val", "test"):
        results = class_table(best.metrics, split)
        if results is not None:
            console.print(results_table(results, f"{best.run_id} on {split}{mark}"))
            if results.note:
                console.print(results.note, markup=False, highlight=False, soft_wrap=True)
    if class_table(best.metrics, "test") is None:
        console.print(wording.NO_TEST, style="yellow", highlight=False, soft_wrap=True)
    if best.confirmed:
        print_confirmed(
            console,
            best.confirmed,
            objective=next(iter(description.goals)),
            best_trial_id=best.trial_id,
            mark=mark,
        )
        params = {trial.trial_id: trial.params for trial in trials}
        for line in difference_lines(best.confirmed, best.trial_id, params, mark=mark):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    print_baselines(console, *best.held_against_baselines(), best.baselines, mark=mark)
    if best.selected_on_test:
        console.print(
            "Selected on test: the search looked at the test images, so these figures are optimistic.",
            style="yellow",
        )
    environment = best.environment or read_info(folder).environment
    console.print(
        f"{description.dataset}, {description.image_size} px, seed {description.seed}; "
        + "; ".join(environment[name] for name in ("code_version", "hardware") if name in environment),
        style="dim",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
