"""Charts of a search."""

from __future__ import annotations

import optuna
import pytest
from plotly.colors import unlabel_rgb

from hvqray.results.search_charts import search_charts


def test_charts_of_a_search_for_two_metrics() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    distributions = {"a.x": optuna.distributions.FloatDistribution(0, 1)}
    for value in (0.1, 0.5, 0.9, *(0.9 for _ in range(7))):
        study.add_trial(
            optuna.trial.create_trial(
                values=[value, value**2], params={"a.x": value}, distributions=distributions
            )
        )
    charts = search_charts(study, {"one": "maximize", "two": "minimize"})
    assert [chart.title for chart in charts] == [
        "Optimisation history of one",
        "Parameter importances for one",
        "Optimisation history of two",
        "Parameter importances for two",
        "Parallel coordinates",
        "Pareto front",
    ]
    assert all(chart.figure is not None for chart in charts)
    assert list(charts[4].figure.layout.xaxis.ticktext) == ["one", "two", "x"]
    history = next(trace for trace in charts[2].figure.data if trace.mode == "markers")
    assert history.name == "two"
    assert list(history.y) == pytest.approx([0.01, 0.25, *(0.81 for _ in range(8))])
    assert "best up to it" not in charts[0].caption, "no line is drawn of it"


def test_every_trial_shows_in_the_parallel_coordinates() -> None:
    study = optuna.create_study(direction="maximize")
    distributions = {"a.x": optuna.distributions.FloatDistribution(0, 1)}
    for value in (0.1, 0.5, 0.9):
        study.add_trial(
            optuna.trial.create_trial(value=value, params={"a.x": value}, distributions=distributions)
        )
    chart = next(
        each for each in search_charts(study, {"one": "maximize"}) if each.title == "Parallel coordinates"
    )
    colours = [unlabel_rgb(line.line.color) for line in chart.figure.select_traces({"mode": "lines"})]
    (scale,) = (each.marker.colorscale for each in chart.figure.select_traces({"mode": "markers"}))
    assert sum(colours[0]) < 500, "the worst stands out from white"
    assert sum(colours[0]) > sum(colours[1]) > sum(colours[2])
    assert [unlabel_rgb(scale[0][1]), unlabel_rgb(scale[-1][1])] == [colours[0], colours[2]]
