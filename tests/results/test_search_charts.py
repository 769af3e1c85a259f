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
        "Parameter importances for one",
        "Parameter importances for two",
        "Parallel coordinates",
        "Pareto front",
        "Optimisation history of one",
        "Optimisation history of two",
    ]
    assert all(chart.figure is not None for chart in charts)
    assert list(charts[2].figure.layout.xaxis.ticktext) == ["one", "two", "x"]
    history = next(trace for trace in charts[5].figure.data if trace.mode == "markers")
    assert history.name == "two"
    assert list(history.y) == pytest.approx([0.01, 0.25, *(0.81 for _ in range(8))])
    assert "best up to it" not in charts[4].caption, "no line is drawn of it"
    assert charts[0].table is not None
    assert charts[0].table.rows == [["a.x", "1.00"]]
    front = {trace.name: list(trace.text) for trace in charts[3].figure.data}
    assert front == {"others": [], "Pareto front": [f"t{number:04d}" for number in range(10)]}


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


def test_the_history_counts_trials_in_whole_numbers_and_holds_the_best() -> None:
    study = optuna.create_study(direction="maximize")
    for value in (0.5, 0.5):
        study.add_trial(optuna.trial.create_trial(value=value))
    chart = search_charts(study, {"one": "maximize"})[-1]
    assert chart.figure.layout.xaxis.dtick == 1
    assert list(chart.figure.layout.yaxis.range) == pytest.approx([0.45, 0.55]), "not from 0 to 1"
    (line,) = chart.figure.select_traces({"mode": "lines"})
    assert (line.line.shape, line.name) == ("hv", "best so far")


def test_parallel_coordinates_have_room_for_every_axis_and_name_what_is_not_set() -> None:
    study = optuna.create_study(direction="maximize")
    kinds = optuna.distributions.CategoricalDistribution(("vq", "fsq"))
    for names in ("abcdefghij", "a"):
        params = {name: "vq" if name == "a" else "fsq" for name in names}
        study.add_trial(
            optuna.trial.create_trial(
                value=len(names), params=params, distributions=dict.fromkeys(params, kinds)
            )
        )
    chart = next(
        each for each in search_charts(study, {"one": "maximize"}) if each.title.startswith("Parallel")
    )
    assert chart.min_width > 12 * 80
    assert "none" in {annotation.text for annotation in chart.figure.layout.annotations}
    assert "do not have the parameter" in chart.caption
