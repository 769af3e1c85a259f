"""Won and lost against the baselines, as the terminal tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from rich.console import Console

from hvqray.results.baseline_table import baseline_tables, headline, print_baselines, read_baselines

BEST = {
    "test/image_auroc": 0.9,
    "test/pixel_auroc": 0.8,
    "test/pixel_aupro": None,
    "test/cap/image_auroc": 0.95,
    "test/nut/image_auroc": 0.85,
}
BASELINES = read_baselines(
    [
        {
            "name": "patchcore",
            "settings": {"neighbourhood": 1, "image_score": "top 5%"},
            "metrics": {
                "test/image_auroc": 0.875,
                "test/pixel_auroc": 0.85,
                "test/pixel_aupro": 0.7,
                "test/cap/image_auroc": 0.97,
                "test/nut/image_auroc": None,
            },
        }
    ]
)


def test_each_class_and_the_mean() -> None:
    (table,) = baseline_tables(BEST, BASELINES)
    rows = {name: cells[0] for name, cells in table.rows}
    assert list(rows) == ["cap", "nut", "mean"]
    assert rows["cap"] == (0.97, 0.95 - 0.97)
    assert rows["nut"] == (None, None)
    assert rows["mean"] == (0.875, 0.9 - 0.875)


def test_a_mean_that_misses_a_class_is_noted() -> None:
    (table,) = baseline_tables(BEST, BASELINES)
    assert table.note == "PatchCore: mean image AUROC over 1 of 2 classes"
    lacking = {**BEST, "test/nut/image_auroc": None}
    (table,) = baseline_tables(lacking, BASELINES)
    assert table.note == "mean image AUROC over 1 of 2 classes", "the same for both"
    (table,) = baseline_tables(BEST, read_baselines([{"name": "padim", "settings": {}, "metrics": BEST}]))
    assert table.note is None


def test_a_line_says_what_was_won_and_lost_where_both_are_defined() -> None:
    assert headline(BEST, BASELINES) == [
        "against PatchCore: image AUROC won by 0.0250, pixel AUROC lost by 0.0500 (test, mean over the classes)"
    ]
    unsure = [replace(BASELINES[0], more={"test/image_auroc": (-0.01, 0.06)})]
    both = {"test/image_auroc": (-0.01, 0.06), "test/pixel_auroc": (-0.08, -0.02)}
    assert headline(BEST, [replace(BASELINES[0], more=both)]) == [
        "against PatchCore: image AUROC +0.0250 (95 %: -0.0100 to +0.0600, not decided), pixel AUROC lost by 0.0500 (95 %: -0.0800 to -0.0200)"
        " (test, mean over the classes)"
    ]
    assert headline(BEST, unsure) == [
        "against PatchCore: image AUROC +0.0250 (95 %: -0.0100 to +0.0600, not decided), pixel AUROC lost by 0.0500 (test, mean over the classes)"
    ]
    assert "image AUROC equal" in headline(BASELINES[0].metrics, BASELINES)[0]
    assert headline({}, BASELINES) == []


def test_without_test_images_val_is_compared() -> None:
    def on_val(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
        return {name.replace("test/", "val/"): value for name, value in metrics.items()}

    best = on_val(BEST)
    baselines = [replace(BASELINES[0], metrics=on_val(BASELINES[0].metrics))]
    (table,) = baseline_tables(best, baselines)
    (of_test,) = baseline_tables(BEST, BASELINES)
    assert (table.split, table.rows, table.note) == ("val", of_test.rows, of_test.note)
    assert table.verdict == (
        "against PatchCore: image AUROC won by 0.0250, pixel AUROC lost by 0.0500 (val, mean over the classes)"
    )
    console = Console(width=120)
    with console.capture() as capture:
        print_baselines(console, "t0003", best, baselines, mark="")
    assert "neighbourhood 1) on val, and what t0003 has more" in " ".join(capture.get().split())


def test_the_terminal_holds_it_in_80_columns() -> None:
    console = Console(width=80, record=True, file=None, quiet=False)
    with console.capture() as capture:
        print_baselines(console, "t0003", BEST, BASELINES, mark=" (selected on test)")
    text = capture.get()
    assert "PatchCore (image score top 5%, neighbourhood 1) on test (selected on test)" in " ".join(
        text.split()
    )
    assert text.rstrip().endswith("(test, mean over the classes) (selected on test)")
    assert "0.9700 -0.0200" in text
    assert "0.8750 +0.0250" in text
    assert "PatchCore: mean image AUROC over 1 of 2 classes" in text
    assert "…" not in text


@pytest.mark.parametrize("width", [80, 60, 40])
def test_no_figure_is_cut_however_long_a_class_is_called(width: int) -> None:
    name = "a_class_whose_name_is_much_longer_than_others"
    values = {"image_auroc": 0.9889, "pixel_auroc": 0.5, "pixel_aupro": 0.25}
    other = {f"test/{name}/{metric}": value for metric, value in values.items()}
    best = {flat: value - 0.0625 for flat, value in other.items()}
    console = Console(width=width)
    with console.capture() as capture:
        print_baselines(console, "t0003", best, [replace(BASELINES[0], metrics=other)], mark="")
    text = capture.get()
    assert "…" not in text
    for value in values.values():
        assert f"{value:.4f} -0.0625" in text


def test_settings_a_class_are_told_a_line_a_setting() -> None:
    one, other = {"neighbourhood": 1, "image_score": "top 5%"}, {"neighbourhood": 3, "image_score": "maximum"}
    (record,) = read_baselines(
        [{"name": "padim", "settings": {"bolt": one, "nut": other, "pill": one}, "metrics": BEST}]
    )
    assert record.title == "PaDiM (each class as is best on val)"
    assert record.settings_lines() == [
        "PaDiM, bolt, pill: image score top 5%, neighbourhood 1",
        "PaDiM, nut: image score maximum, neighbourhood 3",
    ]
    (plain,) = read_baselines([{"name": "no_quantizer", "settings": {"seeds": "0, 1"}, "metrics": BEST}])
    assert (plain.title, plain.settings_lines()) == ("no quantiser (seeds 0, 1)", [])
