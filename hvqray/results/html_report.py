"""`report.html`: everything about a sweep on one page that needs no network, built from what lies in its folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe
import optuna
from plotly.offline import get_plotlyjs

from hvqray.atomic import write_atomically
from hvqray.errors import InputError
from hvqray.results import wording
from hvqray.results.baseline_table import BaselineTable, baseline_tables
from hvqray.results.class_table import ALL_LABELS, class_table, over_classes
from hvqray.results.configuration_differences import difference_tables
from hvqray.results.confirm_table import confirm_table, confirmed_split, spread_lines
from hvqray.results.figures import Chart, figure_html
from hvqray.results.history import TrialRecord
from hvqray.results.in_short import (
    Point,
    cards_on_test,
    comparison,
    headline_metric,
    next_steps,
    what_mattered,
    worst_class,
)
from hvqray.results.page import examples, page
from hvqray.results.ranking import ranked
from hvqray.results.search_charts import IMPORTANCES, search_charts
from hvqray.results.stored_trials import read_all_epochs, read_info, read_trials
from hvqray.results.study_file import count_studies
from hvqray.results.sweep_folder import BestResult, SweepDescription, read_best, read_description
from hvqray.results.trial_charts import class_heat_map, codebook_chart

_HISTORY = "Optimisation history"


def build_html_report(folder: Path) -> Path:
    """Write `folder`/report.html anew and return its path.

    Raises InputError where `folder` is not a sweep's.
    """
    description = read_description(folder)
    info = read_info(folder)
    trials = ranked(read_trials(folder), description.goals)
    best = read_best(folder)
    best_id = best.trial_id if best else None
    held, held_metrics = best.held_against_baselines() if best else ("", {})
    baselines = baseline_tables(held_metrics, best.baselines) if best else []
    metric = headline_metric(description.goals, held_metrics)
    charts = [
        *_search_charts(folder, description),
        class_heat_map(trials, metric),
        codebook_chart(read_all_epochs(folder), best_id),
    ]
    settings = {trial.trial_id: trial.params for trial in trials}
    params = list(dict.fromkeys(name for trial in trials for name in trial.params))
    html = page("report.html.j2").render(
        description=description,
        info=info,
        environment={**info.environment, **(best.environment if best else {})},
        headline=_headline(description, best),
        counts=_counts(trials),
        in_short=_in_short(best, held_metrics, baselines, metric, charts),
        trials=trials,
        params=params,
        param_labels=wording.short_names(params),
        number_params=[name for name in params if _all_numbers(trial.params.get(name) for trial in trials)],
        failed=_failed(trials),
        seeds=", ".join(str(seed) for seed in sorted({trial.seed for trial in trials})) or description.seed,
        code_versions=", ".join(sorted({trial.code_version for trial in trials}))
        or info.environment["code_version"],
        differing=[
            name for name in ("seed", "code_version") if len({getattr(trial, name) for trial in trials}) > 1
        ],
        selected_on_test=description.selected_on_test or (best is not None and best.selected_on_test),
        best=best,
        best_trial=next((trial for trial in trials if trial.trial_id == best_id), None),
        class_tables=[
            # Test first: by val the model was chosen.
            table
            for split in ("test", "val")
            if best and (table := class_table(best.metrics, split))
        ],
        confirm_tables=[confirm_table(each) for each in best.confirmed] if best else [],
        confirmed_split=confirmed_split(best.confirmed) if best else "test",
        settings={trial_id: wording.one_line(each) for trial_id, each in settings.items()},
        difference_tables=difference_tables(best.confirmed, best.trial_id, settings) if best else [],
        held=held,
        baseline_tables=baselines,
        labels=ALL_LABELS,
        charts=[
            (chart, html)
            for index, chart in enumerate(charts)
            if (html := _chart_html(chart, index)) is not None
        ],
        not_shown=[chart for chart in charts if chart.figure is None],
        examples=examples(folder / "best" / "maps"),
        plotly_js=markupsafe.Markup(get_plotlyjs()),
    )
    path = folder / "report.html"
    write_atomically(path, html)
    return path


def _search_charts(folder: Path, description: SweepDescription) -> list[Chart]:
    path = folder / "study.db"
    if not path.exists():
        return [Chart(_HISTORY, "", reason="study.db is missing")]
    found = count_studies(path, mend="restore it, or remove it: the report is then without its charts")
    if not found:
        return [Chart(_HISTORY, "", reason="study.db holds no study")]
    if found > 1:
        raise InputError(f"holds {found} studies, where a sweep has exactly one", source=str(path))
    with _study(path) as study:
        return search_charts(study, description.goals)


@contextlib.contextmanager
def _study(path: Path) -> Iterator[optuna.Study]:
    """The one study of a sweep, with its database closed again."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{path.resolve()}")
    try:
        (only,) = storage.get_all_studies()
        yield optuna.load_study(study_name=only.study_name, storage=storage)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _counts(trials: Sequence[TrialRecord]) -> str:
    """`10: 6 complete, 4 pruned, 0 failed`."""
    count = {state: sum(trial.state == state for trial in trials) for state in ("COMPLETE", "PRUNED", "FAIL")}
    return f"{len(trials)}: {count['COMPLETE']} complete, {count['PRUNED']} pruned, {count['FAIL']} failed"


def _failed(trials: Sequence[TrialRecord]) -> list[tuple[str, list[TrialRecord]]]:
    """Every error with the trials that ended with it: what fails once often fails alike again."""
    by_error: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        if trial.state == "FAIL":
            by_error.setdefault(trial.error or "no error was recorded", []).append(trial)
    return sorted(by_error.items(), key=lambda each: -len(each[1]))


def _all_numbers(values: Iterable[Any]) -> bool:
    """Whether those that are there are numbers, which stand right-aligned."""
    there = [value for value in values if value is not None]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in there)


def _in_short(
    best: BestResult | None,
    held_metrics: Mapping[str, float | None],
    baselines: Sequence[BaselineTable],
    metric: str,
    charts: Sequence[Chart],
) -> list[Point]:
    """What stands below the headline figures; nothing where there is no best model."""
    if best is None:
        return []
    importances = next((chart for chart in charts if chart.title.startswith(IMPORTANCES)), None)
    return [
        *comparison(baselines, metric),
        *worst_class(held_metrics, metric),
        *what_mattered(importances),
        next_steps(best.metrics),
    ]


def _headline(description: SweepDescription, best: BestResult | None) -> list[tuple[str, str, str]]:
    """The figures on top: label, value, remark. Of a model that is one of several seeds the remark has the mean over them."""
    cards = []
    spreads = best.held_spreads() if best else {}

    def over_seeds(name: str) -> str | None:
        spread = spreads.get(name)
        if spread is None or spread.mean is None or len(spread.values) < 2:
            return None
        return f"{len(spread.values)} seeds: {spread_lines(spread)[0]}"

    for index, name in enumerate(description.goals):
        remark = f"{'run' if best.confirmed else 'trial'} {best.run_id}" if best else "no complete trial"
        if best and (over := over_classes(best.metrics, name)):
            remark += f", mean {over}"
        if seeds := over_seeds(name):
            remark += f"; {seeds}"
        label = f"{name} of the best model" if index else f"best {name}"  # which the first metric chose
        cards.append((label, wording.number(best.metrics.get(name) if best else None), remark))
    if best is not None:
        cards += cards_on_test(best.metrics, {name: over_seeds(name) for name in spreads})
    return cards


def _chart_html(chart: Chart, index: int) -> markupsafe.Markup | None:
    if chart.figure is None:
        return None
    label = f"{chart.title}. {chart.caption}"
    return markupsafe.Markup(
        figure_html(chart.figure, identifier=f"chart-{index}", label=label, min_width=chart.min_width)
    )
