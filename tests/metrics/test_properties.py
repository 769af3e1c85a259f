"""Properties of a class's seven metrics on maps of any kind: tied, constant, not finite, empty, all anomalous, a single image."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hvqray.metrics import IMAGE_METRICS, PIXEL_METRICS, THRESHOLD, MaskRegions, image_metrics, pixel_metrics

UNDEFINED = dict.fromkeys(PIXEL_METRICS)
# Few values, so that most are tied; the powers of two and their sums are exact.
LEVELS = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 8.0])
SHAPES = st.tuples(st.integers(0, 4), st.integers(1, 6), st.integers(1, 6))


@st.composite
def some_class(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Maps and masks (n, H, W), n from 0."""
    shape = draw(SHAPES)
    maps = draw(hnp.arrays(np.float32, shape, elements=LEVELS))
    return maps, draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 1)))


def of(maps: np.ndarray, masks: np.ndarray) -> dict[str, float | None]:
    return pixel_metrics(maps, MaskRegions.from_masks(masks))


@settings(deadline=None)
@given(some_class())
def test_defined_where_there_are_both_kinds_of_pixel_and_then_in_bounds(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    maps, masks = drawn
    found = of(maps, masks)
    if not masks.any() or masks.all():
        assert found == UNDEFINED
        return
    assert all(value is not None and 0 <= value <= 1 for value in found.values())
    share = masks.mean()
    assert found["pixel_f1max"] >= 2 * share / (1 + share) - 1e-12, "that of calling everything anomalous"  # type: ignore[operator]


@settings(deadline=None)
@given(some_class(), st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0))
def test_one_value_that_is_not_finite_leaves_nothing_defined(
    drawn: tuple[np.ndarray, np.ndarray], value: float, where: int
) -> None:
    maps, masks = drawn
    if maps.size:
        maps.reshape(-1)[where % maps.size] = value
    assert of(maps, masks) == UNDEFINED
    scores = np.array([0.0, 1.0, value])
    assert set(image_metrics(np.array([True, False, True]), scores).values()) == {None}


@settings(deadline=None)
@given(some_class(), st.sampled_from([0.5, 4.0]), st.sampled_from([-8.0, 0.0, 2.0]))
def test_only_the_order_of_the_scores_counts(
    drawn: tuple[np.ndarray, np.ndarray], factor: float, offset: float
) -> None:
    maps, masks = drawn
    assert of(maps * np.float32(factor) + np.float32(offset), masks) == of(maps, masks)


@settings(deadline=None)
@given(some_class())
def test_the_order_of_the_images_does_not_count(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    maps, masks = drawn
    found, turned = of(maps, masks), of(maps[::-1].copy(), masks[::-1].copy())
    for name, value in found.items():
        assert (value is None) == (turned[name] is None)
        assert value is None or abs(value - (turned[name] or 0)) < 1e-12


@settings(deadline=None)
@given(some_class())
def test_perfect_and_constant_maps(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    _, masks = drawn
    if not masks.any() or masks.all():
        return
    assert of(masks.astype(np.float32), masks) == dict.fromkeys(PIXEL_METRICS, 1.0)
    constant = of(np.full(masks.shape, 3.0, dtype=np.float32), masks)
    assert constant["pixel_auroc"] == 0.5
    assert abs((constant["pixel_ap"] or 0) - masks.mean()) < 1e-12


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), LEVELS), max_size=12))
def test_images_are_judged_as_pixels_are(images: list[tuple[bool, float]]) -> None:
    """One-pixel images: the image metrics are the pixel metrics of the same name."""
    labels = np.array([label for label, _ in images], dtype=bool)
    scores = np.array([score for _, score in images], dtype=np.float32)
    by_image = image_metrics(labels, scores)
    by_pixel = of(scores.reshape(-1, 1, 1), labels.astype(np.uint8).reshape(-1, 1, 1))
    for image_name in IMAGE_METRICS:
        assert by_image[image_name] == by_pixel[image_name.replace("image", "pixel")]
    assert (by_image[THRESHOLD] is None) == (by_image["image_auroc"] is None)
