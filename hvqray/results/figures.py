"""The report's charts, as Plotly figures; a chart that the data does not allow is a reason instead."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import optuna
import plotly.colors
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hvqray.results import wording
from hvqray.results.class_table import ALL_LABELS, class_names, codebook_levels
from hvqray.results.events import Goal
from hvqray.results.history import Epochs, TrialRecord
from hvqray.results.importances import common_params, importance_bars, why_no_importances
from hvqray.training.epoch_report import MEAN

ACCENT = "#1d5fa8"
_GREY = "#c3cad4"
_INK = "#1c2733"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_MAX_LABELLED_TRIALS = 16


@dataclass(frozen=True)
class Chart:
    """A figure, or why there is none."""

    title: str
    caption: str
    figure: go.Figure | None = None
    reason: str | None = None


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


def class_heat_map(trials: Sequence[TrialRecord]) -> Chart:
    """Classes by trials, on `val`; a menu picks the metric."""
    title = "Classes by trials"
    caption = "Final results on val per class, best trial on the left. Gaps are undefined or not measured."
    measured = [trial for trial in trials if any(name.startswith("val/") for name in trial.metrics)]
    classes = class_names({name: None for trial in measured for name in trial.metrics}, "val")
    if not classes:
        return Chart(title, caption, reason="no trial has results per class")
    rows = [*classes[::-1], MEAN]
    columns = [trial.trial_id for trial in measured]

    def values(metric: str) -> list[list[float | None]]:
        names = [f"val/{metric}" if row == MEAN else f"val/{row}/{metric}" for row in rows]
        return [[trial.metrics.get(name) for trial in measured] for name in names]

    figure = go.Figure(
        go.Heatmap(
            z=values("image_auroc"),
            x=columns,
            y=rows,
            colorscale="Blues",
            xgap=1,
            ygap=1,
            texttemplate="%{z:.3f}" if len(columns) <= _MAX_LABELLED_TRIALS else None,
            hovertemplate="%{y}, %{x}: %{z:.4f}<extra></extra>",
            hoverongaps=False,
            colorbar={"thickness": 12, "outlinewidth": 0},
        )
    )
    figure.update_layout(
        xaxis={"type": "category", "showgrid": False},
        yaxis={"type": "category", "showgrid": False},
        updatemenus=[
            {
                "buttons": [
                    {"label": label, "method": "restyle", "args": [{"z": [values(metric)]}]}
                    for metric, label in ALL_LABELS.items()
                ],
                "x": 0,
                "xanchor": "left",
                "y": 1.02,
                "yanchor": "bottom",
                "bgcolor": "white",
            }
        ],
    )
    return Chart(title, caption, _dressed(figure, height=160 + 32 * len(rows), top=70))


def codebook_chart(epochs: Mapping[str, Epochs], best_id: str | None) -> Chart:
    """Codebook use per level over the epochs; a panel a level, all trials in grey, the best one in colour."""
    title = "Codebook use over the epochs"
    caption = "Share of a level's codes that occur in a pass over val; all trials, the best one in colour."
    levels = list(
        dict.fromkeys(
            level
            for reports in epochs.values()
            for metrics in reports.values()
            for level in codebook_levels(metrics)
        )
    )
    if not levels:
        return Chart(title, caption, reason="no trial has a codebook")
    num_columns = min(len(levels), 3)
    num_rows = -(-len(levels) // num_columns)
    figure = make_subplots(
        rows=num_rows,
        cols=num_columns,
        subplot_titles=[f"level {level}" for level in levels],
        shared_yaxes=True,
    )
    for index, level in enumerate(levels):
        place = {"row": index // num_columns + 1, "col": index % num_columns + 1}
        # One trace for all the grey lines: a trace a trial would make the report heavy.
        best_line: go.Scatter | None = None
        x: list[int | None] = []
        y: list[float | None] = []
        text: list[str | None] = []
        for trial_id, reports in epochs.items():
            line = [
                (epoch, metrics.get(f"codebook/{level}/use")) for epoch, metrics in sorted(reports.items())
            ]
            if trial_id == best_id:
                best_line = go.Scatter(
                    x=[epoch for epoch, _ in line],
                    y=[use for _, use in line],
                    mode="lines+markers",
                    line={"color": ACCENT, "width": 3},
                    hovertemplate=f"{trial_id}, epoch %{{x}}: %{{y:.1%}}<extra></extra>",
                )
                continue
            x += [*(epoch for epoch, _ in line), None]
            y += [*(use for _, use in line), None]
            text += [*(trial_id for _ in line), None]
        others = go.Scatter(
            x=x,
            y=y,
            text=text,
            mode="lines+markers",
            line={"color": _GREY, "width": 1},
            marker={"size": 4},
            hovertemplate="%{text}, epoch %{x}: %{y:.1%}<extra></extra>",
        )
        figure.add_trace(others, **place)
        if best_line is not None:
            figure.add_trace(best_line, **place)
    figure.update_yaxes(tickformat=".0%", range=[0, 1.05])
    figure.update_xaxes(title_text="epoch", dtick=1 if _num_epochs(epochs) <= 12 else None)
    return Chart(title, caption, _dressed(figure, height=110 + 240 * num_rows, legend=False))


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
        return figure.update_traces(selector={"mode": "lines"}, line={"color": _GREY, "width": 2})

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
        return Chart(title, caption, _dressed(draw(), height=400))


def _dressed(figure: go.Figure, *, height: int, top: int = 60, legend: bool = True) -> go.Figure:
    """The report's look: its font, quiet lines, no title (the page has one); `top` has room for Plotly's bar above what stands there."""
    figure.update_layout(
        template="plotly_white",
        title=None,
        font={"family": _FONT, "size": 12, "color": _INK},
        height=height,
        margin={"l": 60, "r": 30, "t": top, "b": 50},
        showlegend=legend and len(figure.data) > 1,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        hoverlabel={"font": {"family": _FONT}},
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure


def _num_epochs(epochs: Mapping[str, Epochs]) -> int:
    return max((max(reports) for reports in epochs.values() if reports), default=0)


def figure_html(figure: go.Figure, *, identifier: str) -> str:
    """The figure as an element and its script; `plotly.js` itself is not part of it. Text in it is escaped by Plotly."""
    return figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=identifier,
        config={
            "displaylogo": False,
            "responsive": True,
            "modeBarButtonsToRemove": ["lasso2d", "select2d", "sendChartToCloud"],
        },
    )
