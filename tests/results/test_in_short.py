"""What a reader of a report wants to know first."""

from __future__ import annotations

from hvqray.results.baseline_table import baseline_tables, read_baselines
from hvqray.results.figures import Chart, ChartTable
from hvqray.results.in_short import (
    cards_on_test,
    comparison,
    headline_metric,
    next_steps,
    what_mattered,
    worst_class,
)

BEST = {
    "val/nut/image_auroc": 0.5,
    "val/pill/image_auroc": 0.75,
    "test/image_auroc": 0.8,
    "test/nut/image_auroc": 0.9,
    "test/pill/image_auroc": 0.7,
}


def test_results_are_told_by_what_was_searched_for() -> None:
    assert headline_metric(["val/pixel_ap", "val/mad"], {}) == "pixel_ap"
    assert headline_metric(["val/nut/pixel_ap", "val/image_ap"], {"test/mad": 0.5}) == "mad", (
        "one class says nothing of all"
    )
    assert headline_metric(["val/nut/pixel_ap"], BEST) == "image_auroc"


def test_what_was_won_says_whether_it_is_decided() -> None:
    def told(value: float, low: float, high: float) -> str:
        content = {"name": "padim", "settings": {}, "metrics": {"test/image_auroc": value}}
        more = {"test/image_auroc": {"low": low, "high": high}}
        (point,) = comparison(
            baseline_tables(BEST, read_baselines([content | {"more": more}])), "image_auroc"
        )
        assert point.label == "Against PaDiM"
        return point.text

    assert told(0.7, 0.05, 0.2) == "image AUROC won by 0.1000 on test, 95 % interval +0.0500 to +0.2000"
    assert told(0.9, -0.2, -0.05) == "image AUROC lost by 0.1000 on test, 95 % interval -0.2000 to -0.0500"
    assert told(0.8, -0.1, 0.1).startswith("image AUROC +0.0000 on test, ")
    assert told(0.7, -0.1, 0.2) == (
        "image AUROC +0.1000 on test, 95 % interval -0.1000 to +0.2000: not decided, since the interval contains 0"
    )
    undefined = read_baselines([{"name": "padim", "settings": {}, "metrics": {"test/image_auroc": None}}])
    assert comparison(baseline_tables(BEST, undefined), "image_auroc") == []


def test_the_hardest_class_is_that_of_test_where_there_is_one() -> None:
    (point,) = worst_class(BEST, "image_auroc")
    assert point.text == "pill: image AUROC 0.7000 on test, where the mean is 0.8000"
    on_val = {name: value for name, value in BEST.items() if name.startswith("val/")}
    (point,) = worst_class(on_val, "image_auroc")
    assert point.text.startswith("nut: image AUROC 0.5000 on val")
    assert worst_class(BEST, "mad") == []


def test_what_mattered_or_why_that_is_not_known() -> None:
    assert what_mattered(None) == []
    (point,) = what_mattered(Chart("", "", reason="there are 2 trials"))
    assert point.text == "not known: there are 2 trials"
    rows = [[name, "0.25"] for name in ("a", "b", "c", "d")]
    (point,) = what_mattered(Chart("", "", table=ChartTable(["parameter", "share"], rows)))
    assert point.text.startswith("a 0.25, b 0.25, c 0.25 and 1 more below: shares")


def test_the_next_steps_name_a_class_where_there_are_several() -> None:
    assert "best IMAGES --class nut --out" in next_steps(BEST).commands[0]
    assert "best IMAGES --out" in next_steps({"val/nut/image_auroc": 0.5}).commands[0]
    several = {"val/a b/image_auroc": 0.5, "val/c/image_auroc": 0.5}
    assert "--class 'a b'" in next_steps(several).commands[0]


def test_cards_of_what_was_measured() -> None:
    assert cards_on_test(BEST, {}) == [("image AUROC on test", "0.8000", "mean over the classes")]
    ((_, _, remark),) = cards_on_test(BEST, {"test/image_auroc": "2 seeds: 0.8"})
    assert remark == "mean over the classes; 2 seeds: 0.8"
