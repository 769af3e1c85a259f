"""What a sweep prints when it is over: its trials, and the best one's results per class."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hvqray.results import wording
from hvqray.results.class_table import METRIC_LABELS, ClassTable, class_table
from hvqray.results.confirm_table import print_confirmed
from hvqray.results.ranking import ranked
from hvqray.results.store import read_info, read_trials
from hvqray.results.sweep_folder import read_best, read_description

_NUM_ROWS = 30


def print_summary(console: Console, folder: Path) -> None:
    """The trials of the sweep in `folder`, best first, and the best one's seven metrics per class on `val` and `test`.

    Raises InputError where `folder` is not a sweep's.
    """
    description = read_description(folder)
    trials = ranked(read_trials(folder), description.goals)
    table = Table(
        title=f"{description.name}: {len(trials)} trials",
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
    )
    for heading in ("trial", "state", *description.goals, "epochs", "time"):
        table.add_column(
            Text(heading), justify="left" if heading in ("trial", "state") else "right", no_wrap=True
        )
    for trial in trials[:_NUM_ROWS]:
        table.add_row(
            trial.trial_id,
            trial.state,
            *(wording.number(trial.metrics.get(name)) for name in description.goals),
            str(trial.epochs),
            wording.duration(trial.duration_s),
        )
    console.print(table)
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
    for split in ("val", "test"):
        results = class_table(best.metrics, split)
        if results is not None:
            console.print(_class_table(results, best.run_id, selected_on_test=best.selected_on_test))
            if results.note:
                console.print(results.note, markup=False, highlight=False, soft_wrap=True)
    if best.confirmed:
        print_confirmed(
            console,
            best.confirmed,
            objective=next(iter(description.goals)),
            best_trial_id=best.trial_id,
            selected_on_test=best.selected_on_test,
        )
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


def _class_table(results: ClassTable, trial_id: str, *, selected_on_test: bool) -> Table:
    mark = " (selected on test)" if selected_on_test else ""
    title = f"{trial_id} on {results.split}{mark}"
    table = Table(
        title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("class", no_wrap=True)
    for label in METRIC_LABELS.values():
        table.add_column(label, justify="right")
    for class_name, values in results.rows:
        is_mean = class_name == results.rows[-1][0]
        if is_mean:
            table.add_section()
        table.add_row(Text(class_name), *map(wording.number, values), style="bold" if is_mean else None)
    return table
