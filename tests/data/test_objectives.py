"""What decides must be defined on `val`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from hvqray.data.dataset import PreparedData, Sample, Split
from hvqray.data.objectives import check_objective
from hvqray.errors import InputError
from hvqray.metrics import MaskRegions, image_metrics, joint_metric, pixel_metrics
from hvqray.models.context import ModelContext

SIZE = 4


@dataclass
class Images:
    """Of one class in one split: so many normal ones, and the masks of defective ones; None where there is none."""

    normal: int = 2
    masks: list[np.ndarray | None] = field(default_factory=lambda: [CORNER, CORNER])


CORNER, EMPTY, FULL = np.zeros((3, SIZE, SIZE), np.uint8)
CORNER[:2, :2] = 1
FULL[:] = 1


def split_of(name: str, classes: list[Images]) -> Split:
    samples: list[Sample] = []
    class_index: list[int] = []
    masks: list[np.ndarray | None] = []
    for c, images in enumerate(classes):
        for defect, of_kind in (("good", [EMPTY] * images.normal), ("cut", images.masks)):
            samples += [Sample(Path("a.png"), f"class{c}", "test", defect)] * len(of_kind)
            class_index += [c] * len(of_kind)
            masks += of_kind
    num = len(samples)
    return Split(
        name=name,
        samples=tuple(samples),
        class_index=np.array(class_index, np.int64),
        is_anomalous=np.array([sample.is_anomalous for sample in samples], bool),
        rows=np.arange(num),
        all_features=np.zeros((num, 1, 1, 1), np.float16),
        all_images=np.zeros((num, 3, SIZE, SIZE), np.uint8),
        all_masks=np.array([EMPTY if mask is None else mask for mask in masks]).reshape(num, SIZE, SIZE),
        has_mask=np.array([mask is not None for mask in masks], bool),
    )


def data_of(val: list[Images], test: list[Images] | None = None, *, on_test: bool = False) -> PreparedData:
    names = tuple(f"class{c}" for c in range(len(val)))
    splits = {"val": split_of("val", val), "test": split_of("test", val if test is None else test)}
    return PreparedData(ModelContext(names, 1, (1, 1), SIZE), splits, "", on_test)


def check(metric: str, data: PreparedData) -> None:
    check_objective(metric, data, field="metric.name")


SOUND = Images()
CASES = {
    "sound": SOUND,
    "no normal image": Images(normal=0),
    "no defective image": Images(masks=[]),
    "no image": Images(normal=0, masks=[]),
    "a mask is missing": Images(masks=[CORNER, None]),
    "empty masks": Images(masks=[EMPTY, EMPTY]),
    "one empty mask": Images(masks=[EMPTY, CORNER]),
    "no normal pixel": Images(normal=0, masks=[FULL, FULL]),
    "normal pixels of normal images": Images(normal=1, masks=[FULL]),
}


@pytest.mark.parametrize("metric", ["image_auroc", "image_f1max", "pixel_auroc", "pixel_aupro", "mad"])
@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_exactly_where_the_evaluation_leaves_it_undefined(case: str, metric: str) -> None:
    data = data_of([CASES[case]])
    split = data.splits["val"]
    rng = np.random.default_rng(0)
    measured = image_metrics(split.is_anomalous, rng.random(len(split)).astype(np.float32))
    maps = rng.random((len(split), SIZE, SIZE), np.float32)
    masks = split.masks(np.arange(len(split)))
    measured |= pixel_metrics(maps, MaskRegions.from_masks(masks) if split.has_mask.all() else None)
    measured |= joint_metric(measured, has_masks=bool(split.has_mask.all()))
    for name in (f"val/{metric}", f"val/class0/{metric}"):
        if measured[metric] is None:
            with pytest.raises(
                InputError, match=rf"^metric\.name: '{name}' is undefined on val, where class0 has"
            ):
                check(name, data)
        else:
            check(name, data)


@pytest.mark.parametrize(
    ("metric", "case", "told"),
    [
        (
            "val/image_auroc",
            "no normal image",
            "class0 has no normal image; add what is missing to the test images or set",
        ),
        (
            "val/image_auroc",
            "no defective image",
            "class0 has no defective image; add .* data.validation.from: synthetic$",
        ),
        (
            "val/pixel_ap",
            "a mask is missing",
            "class0 has a defective image without a mask; .*, choose an image metric or",
        ),
        ("val/pixel_ap", "empty masks", "class0 has only empty masks"),
        ("val/pixel_ap", "no normal pixel", "class0 has no normal pixel"),
        ("val/mad", "empty masks", "class0 has only empty masks.*, choose an image metric or"),
        (
            "val/mad",
            "no normal image",
            "class0 has no normal image; add what is missing to the test images or",
        ),
    ],
)
def test_why_and_what_to_do(metric: str, case: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        check(metric, data_of([CASES[case]]))
    assert "\n" not in str(caught.value)


def test_one_class_on_which_it_is_defined_is_enough_for_the_mean() -> None:
    data = data_of([Images(masks=[]), SOUND])
    check("val/image_auroc", data)
    check("val/class1/image_auroc", data)
    with pytest.raises(
        InputError, match="'val/class0/image_auroc' is undefined on val, where class0 has no defective image"
    ):
        check("val/class0/image_auroc", data)


def test_many_classes_are_told_in_one_line() -> None:
    none = [Images(masks=[])] * 8 + [Images(normal=0)]
    with pytest.raises(
        InputError,
        match="where class0, class1, class2, class3 and 4 others have no defective image and class8 has no normal image; add",
    ):
        check("val/image_auroc", data_of(none))


def test_classes_that_count_on_one_split_alone_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    val, test = [SOUND, Images(masks=[]), SOUND], [SOUND, SOUND, Images(normal=0)]
    check("val/image_auroc", data_of(val, test))
    assert caplog.messages == [
        "val/image_auroc: defined on val alone for some classes (test: class2 has no normal image), on test alone for some"
        " classes (val: class1 has no defective image), so that val and test are means over different classes"
    ]
    caplog.clear()
    check("val/class0/image_auroc", data_of(val, test))
    assert caplog.messages == []


@pytest.mark.parametrize(("on_test", "where"), [(False, "val and test"), (True, "val")])
def test_classes_that_count_nowhere_are_warned_of(
    caplog: pytest.LogCaptureFixture, on_test: bool, where: str
) -> None:
    caplog.set_level(logging.WARNING)
    images = [SOUND, Images(masks=[]), Images(normal=0), Images(masks=[])]
    check("val/image_auroc", data_of(images, images, on_test=on_test))
    assert caplog.messages == [
        f"val/image_auroc: undefined on {where} for some classes, which count nowhere (class1, class3 have no defective image and class2"
        " has no normal image)"
    ]


def test_where_the_joint_metric_is_of_image_metrics_alone_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    unmasked = Images(masks=[CORNER, None])
    val, test = [SOUND, unmasked, SOUND], [unmasked, unmasked, SOUND]
    check("val/mad", data_of(val, test))
    assert caplog.messages == [
        "val/mad: the mean of the image metrics alone on val for class1 and on test for class0, class1, where a defective image has no"
        " mask"
    ]
    caplog.clear()
    check("val/class1/mad", data_of(val, on_test=True))
    assert caplog.messages == [
        "val/class1/mad: the mean of the image metrics alone on val for class1, where a defective image has no mask"
    ]
    caplog.clear()
    check("val/mad", data_of([SOUND]))
    check("val/class2/mad", data_of(val, test))
    check("val/image_auroc", data_of(val, test))
    assert caplog.messages == []


def test_masks_are_looked_at_until_one_decides() -> None:
    """The masks of a large split are read from the disk."""
    data = data_of([Images(masks=[CORNER] * 50)])
    looked_at: list[int] = []

    class Counted(np.ndarray):
        def __getitem__(self, index: object) -> np.ndarray:
            looked_at.append(1)
            return super().__getitem__(index)

    object.__setattr__(data.splits["val"], "all_masks", data.splits["val"].all_masks.view(Counted))
    check("val/pixel_auroc", data)
    assert len(looked_at) < 5
