"""`report.html`: everything about a sweep on one page that needs no network, built from what lies in its folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import markupsafe
import optuna
from plotly.offline import get_plotlyjs

from hvqray.atomic import write_atomically
from hvqray.config.metric_names import MAD
from hvqray.errors import InputError
from hvqray.results import wording
from hvqray.results.baseline_table import baseline_tables
from hvqray.results.class_table import ALL_LABELS, METRIC_LABELS, class_table, over_classes
from hvqray.results.confirm_table import confirm_table, confirmed_split
from hvqray.results.figures import Chart, figure_html
from hvqray.results.history import TrialRecord
from hvqray.results.page import examples, page
from hvqray.results.ranking import ranked
from hvqray.results.search_charts import search_charts
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
    charts = [
        *_search_charts(folder, description),
        class_heat_map(trials),
        codebook_chart(read_all_epochs(folder), best_id),
    ]
    params = list(dict.fromkeys(name for trial in trials for name in trial.params))
    html = page("report.html.j2").render(
        description=description,
        info=info,
        environment={**info.environment, **(best.environment if best else {})},
        headline=_headline(description, trials, best),
        trials=trials,
        params=params,
        param_labels=wording.short_names(params),
        failed=[trial for trial in trials if trial.state == "FAIL"],
        seeds=", ".join(str(seed) for seed in sorted({trial.seed for trial in trials})) or description.seed,
        code_versions=", ".join(sorted({trial.code_version for trial in trials}))
        or info.environment["code_version"],
        selected_on_test=description.selected_on_test or (best is not None and best.selected_on_test),
        best=best,
        best_trial=next((trial for trial in trials if trial.trial_id == best_id), None),
        class_tables=[
            table for split in ("val", "test") if best and (table := class_table(best.metrics, split))
        ],
        confirm_tables=[confirm_table(each) for each in best.confirmed] if best else [],
        confirmed_split=confirmed_split(best.confirmed) if best else "test",
        held=held,
        baseline_tables=baseline_tables(held_metrics, best.baselines) if best else [],
        metric_labels=METRIC_LABELS,
        charts=[(chart, _chart_html(chart, index)) for index, chart in enumerate(charts)],
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


def _headline(
    description: SweepDescription, trials: Sequence[TrialRecord], best: BestResult | None
) -> list[tuple[str, str, str]]:
    """The figures on top: label, value, remark."""
    count = {state: sum(trial.state == state for trial in trials) for state in ("COMPLETE", "PRUNED", "FAIL")}
    ended = f"{count['COMPLETE']} complete, {count['PRUNED']} pruned, {count['FAIL']} failed"
    cards = [("trials", str(len(trials)), ended)]
    for index, name in enumerate(description.goals):
        remark = f"{'run' if best.confirmed else 'trial'} {best.run_id}" if best else "no complete trial"
        if best and (over := over_classes(best.metrics, name)):
            remark += f", mean {over}"
        label = f"{name} of the best model" if index else f"best {name}"  # which the first metric chose
        cards.append((label, wording.number(best.metrics.get(name) if best else None), remark))
    if best is not None:
        for metric in ("image_auroc", "pixel_auroc", MAD):
            name = f"test/{metric}"
            if name in best.metrics:
                over = over_classes(best.metrics, name) or "over the classes"
                cards.append(
                    (f"{ALL_LABELS[metric]} on test", wording.number(best.metrics[name]), f"mean {over}")
                )
    cards.append(
        (
            "time in trials",
            wording.duration(sum(trial.duration_s for trial in trials)),
            "summed over the trials",
        )
    )
    return cards


def _chart_html(chart: Chart, index: int) -> markupsafe.Markup | None:
    if chart.figure is None:
        return None
    label = f"{chart.title}. {chart.caption}"
    return markupsafe.Markup(figure_html(chart.figure, identifier=f"chart-{index}", label=label))
