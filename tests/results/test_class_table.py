from __future__ import annotations

from hvqray.config.metric_names import METRICS
from hvqray.metrics import METRIC_NAMES
from hvqray.results.class_table import (
    ALL_LABELS,
    METRIC_LABELS,
    class_names,
    class_table,
    codebook_levels,
    hardest_class,
    mean_note,
    natural_order,
    over_classes,
)


def test_labels_are_of_the_seven_metrics_in_their_order() -> None:
    assert tuple(METRIC_LABELS) == METRIC_NAMES
    assert tuple(ALL_LABELS) == METRICS


def test_rows_per_class_and_mean() -> None:
    metrics = {
        "val/image_auroc": 0.8,
        "val/image_auroc.num_classes": 2.0,
        "val/part 10/image_auroc": 0.9,
        "val/part 2/image_auroc": 0.7,
        "val/other/image_auroc": None,
        "val/other/image_f1max.threshold": 3.0,
        "test/else/image_auroc": 0.1,
        "train/loss": 1.0,
        "codebook/top/use": 0.5,
        "codebook/q0/use": 0.5,
        "codebook/q0/perplexity": 5.0,
    }
    table = class_table(metrics, "val")
    assert table is not None
    assert [(name, values[0]) for name, values in table.rows] == [
        ("other", None),
        ("part 2", 0.7),
        ("part 10", 0.9),
        ("mean", 0.8),
    ]
    assert all(len(values) == 7 and values[1:] == [None] * 6 for _, values in table.rows)
    assert table.note == "mean image AUROC over 2 of 3 classes"
    assert class_names(metrics, "test") == ["else"]
    assert codebook_levels(metrics) == ["top", "q0"]


def test_the_router_s_accuracy_is_noted_per_class() -> None:
    metrics = {f"val/{name}/image_auroc": 0.5 for name in ("bolt", "pill")} | {
        "val/router_accuracy": 0.75,
        "val/bolt/router_accuracy": 0.5,
        "val/pill/router_accuracy": 1.0,
    }
    table = class_table(metrics, "val")
    assert table is not None
    assert table.note == "router accuracy 0.750 (bolt 0.500, others 1.000)"
    metrics |= {f"val/{name}/router_accuracy": 1.0 for name in ("bolt", "pill")}
    table = class_table(metrics | {"val/router_accuracy": 1.0}, "val")
    assert table is not None
    assert table.note == "router accuracy 1.000 (every class)"


def test_the_joint_metric_is_noted_below_the_seven() -> None:
    metrics = {"val/a/image_auroc": 0.5, "val/b/image_auroc": 0.5, "val/mad": 0.8125}
    table = class_table(metrics, "val")
    assert table is not None
    assert table.note == "mAD 0.8125"
    assert over_classes(metrics | {"val/mad.num_classes": 1.0}, "val/mad") == "over 1 of 2 classes"
    table = class_table(metrics | {"val/mad.num_classes": 1.0}, "val")
    assert table is not None
    assert table.note == "mAD 0.8125 over 1 of 2 classes"
    unmasked = {"val/a/mad": 0.9, "val/a/pixel_auroc": None, "val/b/mad": 0.725, "val/b/pixel_auroc": 0.9}
    table = class_table(metrics | unmasked, "val")
    assert table is not None
    assert table.note is not None
    assert table.note.endswith("mAD 0.8125 (of image metrics alone in a)")


def test_readers_with_room_have_the_joint_metric_of_each_row() -> None:
    metrics = {"val/a/image_auroc": 0.5, "val/b/image_auroc": 0.5, "val/mad": 0.8125}
    table = class_table(metrics, "val")
    assert table is not None
    assert (table.mad, table.remark) == ([None, None, 0.8125], None)
    table = class_table(
        {"val/a/image_auroc": 0.5, "val/a/mad": 0.9, "val/mad": 0.9, "val/mad.num_classes": 0.0}, "val"
    )
    assert table is not None
    assert (table.mad, table.remark) == ([0.9, 0.9], "mAD over 0 of 1 classes (of image metrics alone in a)")
    table = class_table({"val/a/image_auroc": 0.5}, "val")
    assert table is not None
    assert table.mad == []


def test_the_lowest_class_of_a_column_and_the_hardest_one() -> None:
    values = {"a": 0.5, "b": 0.25, "c": 0.75, "d": None}
    metrics = {f"val/{name}/image_auroc": value for name, value in values.items()}
    metrics |= {f"val/{name}/image_ap": 0.5 for name in values} | {
        "val/a/pixel_ap": 0.5,
        "val/b/pixel_ap": 0.25,
    }
    table = class_table(metrics, "val")
    assert table is not None
    assert table.lowest() == [0.25, None, None, None, None, None, None, None], "all alike, too few, none"
    assert hardest_class(metrics, "val", "image_auroc") == ("b", 0.25)
    assert hardest_class(metrics, "val", "image_ap") is None
    assert hardest_class(metrics, "test", "image_auroc") is None


def test_codebooks_of_classes_are_no_levels() -> None:
    assert codebook_levels({"codebook/q0/use": 0.5, "codebook/q0/bolt/use": 0.4}) == ["q0"]


def test_a_split_that_was_not_measured_has_no_table() -> None:
    assert class_table({"val/image_auroc": 0.5, "train/loss": 1.0}, "test") is None


def test_means_of_a_split_with_an_undefined_class() -> None:
    metrics = {f"test/{name}/{metric}": 0.5 for name in ("a", "b", "c") for metric in METRIC_NAMES}
    metrics |= {f"test/{metric}": 0.5 for metric in METRIC_NAMES}
    assert mean_note(metrics, "test") is None
    metrics |= {"test/b/image_auroc": None, "test/b/image_ap": None, "test/c/pixel_ap": None}
    counted = {**metrics, "test/pixel_ap.num_classes": 1.0}
    assert over_classes(metrics, "test/image_auroc") == "over 2 of 3 classes"
    assert over_classes(metrics, "test/image_f1max") is None
    assert over_classes(counted, "test/pixel_ap") == "over 1 of 3 classes"
    for name in ("test/b/image_auroc", "train/loss", "val/image_auroc", "codebook/top/use"):
        assert over_classes(metrics, name) is None
    assert mean_note(metrics, "test") == "mean image AUROC, image AP, pixel AP over 2 of 3 classes"
    assert mean_note(counted, "test") == (
        "mean image AUROC, image AP over 2 of 3 classes; mean pixel AP over 1 of 3 classes"
    )


def test_names_with_numbers_go_by_these_and_other_digits_are_letters() -> None:
    names = ["part 10", "part 2", "5²", "①", "part"]
    assert sorted(names, key=natural_order) == ["5²", "part", "part 2", "part 10", "①"]
