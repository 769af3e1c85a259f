"""Charts of a search, drawn by Optuna of its study: history, importances, parallel coordinates, the Pareto front."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import optuna
import plotly.colors
import plotly.graph_objects as go

from hvqray.results import wording
from hvqray.results.events import Goal
from hvqray.results.figures import ACCENT, GREY, Chart, ChartTable, dressed
from hvqray.results.importances import common_params, importance_bars, why_no_importances

IMPORTANCES = "Parameter importances for"
"""The title of that chart, before its objective."""
_NOT_SET = "none"
_AXIS_WIDTH = 85
"""Of the parallel coordinates, in pixels: the values of one axis do not reach the next."""
_FEW_TRIALS = 12
"""Of so many every one has its number on the axis."""


def search_charts(study: optuna.Study, goals: Mapping[str, Goal]) -> list[Chart]:
    """Optuna's plots of a study, what a reader asks for first: importances per objective, parallel coordinates, the Pareto front, and
    the history per objective."""
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    charts = [_importances(complete, index, name) for index, name in enumerate(goals)]
    charts.append(_parallel_coordinates(study, complete, list(goals)))
    if len(goals) > 1:
        charts.append(_pareto_front(study, complete, list(goals)))
    return charts + [_history(study, complete, index, name) for index, name in enumerate(goals)]


def _history(
    study: optuna.Study, complete: Sequence[optuna.trial.FrozenTrial], index: int, name: str
) -> Chart:
    several = len(study.directions) > 1

    def draw() -> go.Figure:
        # With a target Optuna no longer knows the direction, and leaves out the line of the best value.
        target = (lambda trial: trial.values[index]) if several else None
        figure = optuna.visualization.plot_optimization_history(study, target=target, target_name=name)
        figure.update_traces(selector={"mode": "markers"}, marker={"color": ACCENT, "size": 8})
        # The best holds until a better one ends: a slope would say that it rose in between.
        line = {"color": GREY, "width": 2, "shape": "hv"}
        figure.update_traces(selector={"mode": "lines"}, line=line, name="best so far")
        # Numbers of trials have no fractions.
        step = 1 if max(trial.number for trial in complete) < _FEW_TRIALS else None
        values = {trial.values[index] for trial in complete}
        if len(values) == 1:  # else the axis goes from nothing to twice of it
            (value,) = values
            figure.update_yaxes(range=[value - 0.05, value + 0.05])
        return figure.update_xaxes(title_text="trial", dtick=step, tickformat="d")

    return _chart(
        f"Optimisation history of {name}",
        f"Every complete trial in the order of the search{'' if several else ', and the best up to it'}.",
        draw,
        None if complete else "no trial is complete",
    )


def _importances(complete: Sequence[optuna.trial.FrozenTrial], index: int, name: str) -> Chart:
    values = [trial.values[index] for trial in complete]
    some_have = sorted({param for trial in complete for param in trial.params} - {*common_params(complete)})
    title = f"{IMPORTANCES} {name}"
    caption = (
        "Of what single parameters explain of the objective's variation over their ranges, the share of each (fANOVA: by a"
        f" random forest fitted to the {len(complete)} complete trials). Shares sum to 1 even where all of it is chance; of a"
        " few dozen trials they are a hint at most."
    )
    if some_have:
        caption += f" Left out, since some trials do not have them: {', '.join(some_have)}."
    reason = why_no_importances(complete, values)
    if reason is not None:
        return Chart(title, caption, reason=reason)
    figure = _quietly(lambda: importance_bars(complete, values, name=name))
    figure.update_traces(marker_color=ACCENT)
    figure.update_xaxes(title_text="share", range=[0, 1.05])
    figure.update_yaxes(title_text=None, ticks="outside", tickcolor="rgba(0,0,0,0)")
    (bars,) = figure.data
    shares = sorted(zip(bars.y, bars.x, strict=True), key=lambda each: -each[1])
    table = ChartTable(["parameter", "share"], [[str(param), f"{share:.2f}"] for param, share in shares])
    return Chart(title, caption, dressed(figure, height=110 + 30 * len(shares)), table=table)


def _parallel_coordinates(
    study: optuna.Study, complete: Sequence[optuna.trial.FrozenTrial], objectives: list[str]
) -> Chart:
    params = sorted({name for trial in complete for name in trial.params})
    reason = None
    if len(complete) < 2:
        reason = f"this needs at least 2 complete trials, and there are {len(complete)}"
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
        # Values stand where lines pass: a ground of their own keeps them legible.
        figure.update_annotations(bgcolor="rgba(255,255,255,0.85)", font_size=11, font_color=None)
        for annotation in figure.layout.annotations:
            annotation.text = _NOT_SET if annotation.text == "None" else annotation.text
        return figure.update_layout(xaxis_ticktext=labels, yaxis_visible=False)

    caption = "A line a complete trial, across its parameters, the darker the better."
    if any(name not in trial.params for trial in complete for name in params):
        caption += f' At "{_NOT_SET}" are trials that do not have the parameter.'
    chart = _chart("Parallel coordinates", caption, draw, reason)
    return replace(chart, min_width=max(chart.min_width, _AXIS_WIDTH * (len(objectives) + len(params) + 1)))


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

    def draw() -> go.Figure:
        figure = optuna.visualization.plot_pareto_front(study, target_names=objectives)
        # Optuna colours both kinds by the trial's number, which says nothing, and does not name them.
        for trace in figure.data:
            best = "Best" in (trace.hovertemplate or "")
            trace.showlegend = True
            trace.name = "Pareto front" if best else "others"
            trace.marker = {
                "color": ACCENT if best else GREY,
                "size": 10 if best else 7,
                "line": {"width": 0},
            }
            trace.text = [
                f"t{json.loads(text.replace('<br>', ' '))['number']:04d}" for text in trace.text or ()
            ]
            places = "xyz"[: len(objectives)]
            trace.hovertemplate = (
                "%{text}: " + ", ".join(f"%{{{axis}:.4f}}" for axis in places) + "<extra></extra>"
            )
            if trace.type == "scatter" and best and len(trace.text) <= _FEW_TRIALS:
                trace.update(mode="markers+text", textposition="top center")
        return figure

    return _chart(
        "Pareto front",
        "Complete trials; those that no other trial beats in every objective stand out.",
        draw,
        reason,
    )


def _chart(title: str, caption: str, draw: Callable[[], go.Figure], reason: str | None) -> Chart:
    if reason is not None:
        return Chart(title, caption, reason=reason)
    return Chart(title, caption, dressed(_quietly(draw), height=400))


def _quietly(draw: Callable[[], go.Figure]) -> go.Figure:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Optuna about what is experimental in it
        return draw()
