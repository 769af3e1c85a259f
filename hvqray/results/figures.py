"""What the report's charts have in common, as Plotly figures; a chart that the data does not allow is a reason instead."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go

ACCENT = "#1d5fa8"
GREY = "#aab4c1"
LINE = "rgba(130,145,160,0.25)"
_INK = "#1c2733"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class ChartTable:
    """What a chart shows, for those who cannot see it or have no scripts."""

    columns: list[str]
    rows: list[list[str]]
    """The name of the row first."""


@dataclass(frozen=True)
class Chart:
    """A figure, or why there is none."""

    title: str
    caption: str
    figure: go.Figure | None = None
    reason: str | None = None
    min_width: int = 640
    """In pixels; narrower windows scroll it."""
    table: ChartTable | None = None
    """The same figures, where they stand nowhere else on the page."""


def dressed(figure: go.Figure, *, height: int, top: int = 40, legend: bool = True) -> go.Figure:
    """The report's look: its font, quiet lines, no title (the page has one); `top` has room for Plotly's bar above
    what stands there."""
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
    figure.update_xaxes(automargin=True, gridcolor=LINE, zerolinecolor=LINE)
    figure.update_yaxes(automargin=True, gridcolor=LINE, zerolinecolor=LINE)
    return figure


def figure_html(figure: go.Figure, *, identifier: str, label: str, min_width: int) -> str:
    """The figure as an element and its script, `label` for those who cannot see it; `plotly.js` itself is not part of it. Text in it is
    escaped by Plotly."""
    html = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=identifier,
        config={
            "displaylogo": False,
            "responsive": True,
            "modeBarButtonsToRemove": ["lasso2d", "select2d", "sendChartToCloud"],
        },
    )
    style = f"min-width: {min_width}px"
    return f'<div class="chart" role="img" aria-label="{escape(label)}" style="{style}">{html}</div>'
