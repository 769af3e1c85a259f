"""The metric by which an epoch is chosen."""

from __future__ import annotations

from hvqray.metrics import IMAGE_METRICS, PIXEL_METRICS
from hvqray.training.rule_choice import ChosenBy
from hvqray.training.selection import Selection


def test_selection_prefers_defined_values() -> None:
    maximize, minimize = Selection("m"), Selection("m", maximize=False)
    assert maximize.is_better(0.2, 0.1)
    assert not minimize.is_better(0.2, 0.1)
    assert maximize.is_better(0.0, None)
    assert not maximize.is_better(None, 0.0)
    assert not maximize.is_better(None, None)


def test_of_equal_epochs_the_first_counts() -> None:
    for selection in (Selection("m"), Selection("m", maximize=False)):
        assert not selection.is_better(0.5, 0.5)


def test_rules_are_chosen_by_what_they_decide_of_the_metric() -> None:
    assert Selection("val/image_ap").of_rules() == ChosenBy(("image_ap",), ("pixel_aupro",))
    assert Selection("val/screw/pixel_ap").of_rules() == ChosenBy(("image_auroc",), ("pixel_ap",))
    assert Selection("val/mad").of_rules() == ChosenBy(IMAGE_METRICS, PIXEL_METRICS)
    assert Selection().of_rules() == ChosenBy() == ChosenBy(("image_auroc",), ("pixel_aupro",))
    assert Selection("val/screw/mad").needs_pixels()
    assert not Selection("val/image_ap").needs_pixels()
