"""Charts of a search, drawn by Optuna of its study: history, importances, parallel coordinates, the Pareto front."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import optuna
import plotly.colors
import plotly.graph_objects as go

from hvqray.results import wording
from hvqray.results.events import Goal
from hvqray.results.figures import ACCENT, GREY, Chart, dressed
from hvqray.results.importances import common_params, importance_bars, why_no_importances


def search_charts(study: optuna.Study, goals: Mapping[str, Goal]) -> list[Chart]:
    """Optuna's plots of a study: history and importances per objective, parallel coordinates, and the Pareto front."""
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    charts = [
        chart for index, name in enumerate(goals) for chart in _objective_charts(study, complete, index, name)
    ]
    charts.append(_parallel_coordinates(study, complete, list(goals)))
    if len(goals) > 1:
        charts.append(_pareto_front(study, complete, list(goals)))
    return charts


def _objective_charts(
    study: optuna.Study, complete: Sequence[optuna.trial.FrozenTrial], index: int, name: str
) -> list[Chart]:
    values = [trial.values[index] for trial in complete]
    several = len(study.directions) > 1
    some_have = sorted({param for trial in complete for param in trial.params} - {*common_params(complete)})

    def history() -> go.Figure:
        # With a target Optuna no longer knows the direction, and leaves out the line of the best value.
        target = (lambda trial: trial.values[index]) if several else None
        figure = optuna.visualization.plot_optimization_history(study, target=target, target_name=name)
        figure.update_traces(selector={"mode": "markers"}, marker={"color": ACCENT, "size": 8})
        return figure.update_traces(selector={"mode": "lines"}, line={"color": GREY, "width": 2})

    def importances() -> go.Figure:
        return importance_bars(complete, values, name=name).update_traces(marker_color=ACCENT)

    return [
        _chart(
            f"Optimisation history of {name}",
            f"Every complete trial in the order of the search{'' if several else ', and the best up to it'}.",
            history,
            None if complete else "no trial is complete",
        ),
        _chart(
            f"Parameter importances for {name}",
            "Of what single parameters explain of the objective's variation over their ranges, the share of each (fANOVA: by a"
            f" random forest fitted to the {len(complete)} complete trials). Shares sum to 1 even where all of it is chance; of a"
            " few dozen trials they are a hint at most."
            + (
                f" Left out, since some trials do not have them: {', '.join(some_have)}." if some_have else ""
            ),
            importances,
            why_no_importances(complete, values),
        ),
    ]


def _parallel_coordinates(
    study: optuna.Study, complete: Sequence[optuna.trial.FrozenTrial], objectives: list[str]
) -> Chart:
    params = sorted({name for trial in complete for name in trial.params})
    reason = None
    if len(complete) < 2:
        reason = f"it needs at least 2 complete trials, there are {len(complete)}"
    elif not params:
        reason = "the search has no parameters"

    def draw() -> go.Figure:
        figure = optuna.visualization.plot_parallel_coordinate(study, target_name=objectives[0])
        # Optuna labels the axes in this order, with the dotted names cut short.
        labels = [*objectives, *wording.short_names(params).values()]
        figure.update_traces(selector={"mode": "lines"}, opacity=0.8, line_width=2)
        # Optuna's blues begin near white, which hides the worst trials.
        for line in figure.select_traces({"mode": "lines"}):
            line.line.color = _darkened(line.line.color)
        scale = [_darkened(colour) for colour in plotly.colors.sequential.Blues]
        figure.update_traces(selector={"mode": "markers"}, marker_colorscale=scale)
        return figure.update_layout(xaxis_ticktext=labels)

    caption = "A line a complete trial, across its parameters."
    return _chart("Parallel coordinates", caption, draw, reason)


def _darkened(colour: str) -> str:
    """A blue `rgb(...)` that stands out from white, however pale it was."""
    shares = zip((0.5, 0.65, 0.8), plotly.colors.unlabel_rgb(colour), strict=True)
    return plotly.colors.label_rgb(tuple(round(share * part) for share, part in shares))


def _pareto_front(
    study: optuna.Study, complete: Sequence[optuna.trial.FrozenTrial], objectives: list[str]
) -> Chart:
    reason = None
    if not complete:
        reason = "no trial is complete"
    elif len(objectives) > 3:
        reason = "it is drawn for two or three objectives"
    return _chart(
        "Pareto front",
        "Complete trials; those that no other trial beats in every objective stand out.",
        lambda: optuna.visualization.plot_pareto_front(study, target_names=objectives),
        reason,
    )


def _chart(title: str, caption: str, draw: Callable[[], go.Figure], reason: str | None) -> Chart:
    if reason is not None:
        return Chart(title, caption, reason=reason)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Optuna about what is experimental in it
        return Chart(title, caption, dressed(draw(), height=400))
