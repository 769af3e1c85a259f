"""Charts of what the trials reached."""

from __future__ import annotations

from hvqray.results.history import TrialRecord
from hvqray.results.trial_charts import class_heat_map, codebook_chart


def test_the_heat_map_shows_the_trials_values() -> None:
    def trial(number: int, metrics: dict[str, float | None]) -> TrialRecord:
        return TrialRecord(f"t{number}", number, "COMPLETE", {}, metrics, 1, 1.0, "h", 0, None, "v")

    measured = {
        "val/image_auroc": 0.6,
        "val/a/image_auroc": 0.7,
        "val/b/image_auroc": None,
        "val/a/pixel_ap": 0.1,
    }
    chart = class_heat_map([trial(3, measured), trial(1, {})])
    (heat,) = chart.figure.data
    assert list(heat.x) == ["t3"]
    assert dict(zip(heat.y, [row[0] for row in heat.z], strict=True)) == {"a": 0.7, "b": None, "mean": 0.6}
    buttons = {button.label: button.args[0]["z"][0] for button in chart.figure.layout.updatemenus[0].buttons}
    assert len(buttons) == 8
    assert "mAD" in buttons
    assert [row[0] for row in buttons["pixel AP"]] == [None, 0.1, None]
    assert chart.table is not None
    assert chart.table.columns == ["image AUROC on val", "t3"]
    assert chart.table.rows == [["mean", "0.6000"], ["a", "0.7000"], ["b", "-"]]
    of_pixels = class_heat_map([trial(3, measured)], "pixel_ap").figure
    assert [row[0] for row in of_pixels.data[0].z] == [None, 0.1, None]
    assert of_pixels.layout.updatemenus[0].buttons[of_pixels.layout.updatemenus[0].active].label == "pixel AP"


def test_codebook_lines_are_apart_and_the_best_in_its_own() -> None:
    use = {"codebook/top/use": 0.5}
    chart = codebook_chart(
        {"t0": {2: use, 1: use}, "t1": {1: use}, "t2": {1: {"codebook/q0/use": 0.1}}}, "t1"
    )
    grey, best = chart.figure.data[:2]
    assert list(grey.x) == [1, 2, None]
    assert list(best.x) == [1]
    assert {annotation.text for annotation in chart.figure.layout.annotations} == {"level top", "level q0"}


def test_codebook_use_that_is_not_measured_every_epoch_is_one_line_and_as_high_as_it_goes() -> None:
    name = "codebook/top/use"
    chart = codebook_chart({"t0": {1: {name: None}, 2: {name: 0.04}, 3: {name: None}, 4: {name: 0.05}}}, "t0")
    assert list(chart.figure.data[1].x) == [2, 4]
    assert chart.figure.layout.yaxis.range[1] < 0.1
    assert chart.table is not None
    assert chart.table.rows == [["top", "4", "5.0%"]]
