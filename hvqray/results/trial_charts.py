"""Charts of what the trials reached: classes by trials, and codebook use over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hvqray.results import wording
from hvqray.results.class_table import ALL_LABELS, class_names, codebook_levels
from hvqray.results.figures import ACCENT, GREY, Chart, ChartTable, dressed
from hvqray.results.history import Epochs, TrialRecord
from hvqray.training.epoch_report import MEAN

_MAX_LABELLED_TRIALS = 16
_MAX_LISTED_TRIALS = 10


def class_heat_map(trials: Sequence[TrialRecord], metric: str = "image_auroc") -> Chart:
    """Classes by trials, on `val`, at first of `metric`; a menu picks another one."""
    title = "Classes by trials"
    caption = (
        "Final results on val per class, best trial on the left, pruned ones after those that are complete. Gaps are undefined or not"
        " measured."
    )
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
            z=values(metric),
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
        # Ticks that are not seen keep the names off the cells.
        yaxis={"type": "category", "showgrid": False, "ticks": "outside", "tickcolor": "rgba(0,0,0,0)"},
        updatemenus=[
            {
                "buttons": [
                    {"label": label, "method": "restyle", "args": [{"z": [values(metric)]}]}
                    for metric, label in ALL_LABELS.items()
                ],
                "active": list(ALL_LABELS).index(metric),
                "x": 0,
                "xanchor": "left",
                "y": 1.02,
                "yanchor": "bottom",
                "pad": {"b": 8},
                "bgcolor": "white",
            }
        ],
    )
    shown = measured[:_MAX_LISTED_TRIALS]
    table = ChartTable(
        [f"{ALL_LABELS[metric]} on val", *(trial.trial_id for trial in shown)],
        [
            [name, *(wording.number(value) for value in of_trials[: len(shown)])]
            for name, of_trials in reversed(list(zip(rows, values(metric), strict=True)))
        ],
    )
    return Chart(title, caption, dressed(figure, height=140 + 32 * len(rows), top=70), table=table)


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
    highest = 0.0
    last_of_best: list[list[str]] = []
    for index, level in enumerate(levels):
        place = {"row": index // num_columns + 1, "col": index % num_columns + 1}
        # One trace for all the grey lines: a trace a trial would make the report heavy.
        best_line: go.Scatter | None = None
        x: list[int | None] = []
        y: list[float | None] = []
        text: list[str | None] = []
        for trial_id, reports in epochs.items():
            # Not every epoch is measured; a gap there would leave points without lines.
            line = [
                (epoch, use)
                for epoch, metrics in sorted(reports.items())
                if (use := metrics.get(f"codebook/{level}/use")) is not None
            ]
            if not line:
                continue
            highest = max(highest, *(use for _, use in line))
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
            line={"color": GREY, "width": 1},
            marker={"size": 4},
            hovertemplate="%{text}, epoch %{x}: %{y:.1%}<extra></extra>",
        )
        figure.add_trace(others, **place)
        if best_line is not None:
            figure.add_trace(best_line, **place)
            last_of_best.append([level, str(best_line.x[-1]), f"{best_line.y[-1]:.1%}"])
    # As high as what is shown: large codebooks are used by a few per cent.
    figure.update_yaxes(tickformat=".0%", range=[0, 1.05 * min(1.0, 1.1 * highest)] if highest else None)
    figure.update_xaxes(title_text="epoch", dtick=1 if _num_epochs(epochs) <= 12 else None)
    table = (
        ChartTable(["level", "last epoch of the best trial", "use"], last_of_best) if last_of_best else None
    )
    return Chart(title, caption, dressed(figure, height=110 + 240 * num_rows, legend=False), table=table)


def _num_epochs(epochs: Mapping[str, Epochs]) -> int:
    return max((max(reports) for reports in epochs.values() if reports), default=0)
