"""Whether a metric can be defined on the images that decide, known before anything is trained.

Legend: n images of one class.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from hvqray.config.metric_names import MAD, PIXEL_METRICS, class_of, is_measured_on_pixels
from hvqray.data.dataset import PreparedData, Split
from hvqray.errors import InputError, shortened

logger = logging.getLogger(__name__)

_NO_MASK = "a defective image without a mask"
_EMPTY_MASKS = "only empty masks"


def check_objective(metric: str, data: PreparedData, *, field: str, mend: str = "") -> None:
    """Refuses an objective (`val/METRIC`, `val/CLASS/METRIC`) that no epoch of any run could have on `val`.

    Logs a warning where there are classes for which it is defined on one of `val` and `test` alone: their means are then of different
    classes; where there are some for which it is defined on neither; and where `mad` is the mean of a class's image metrics alone. `field` says where the objective was named, `mend` what would
    help besides more images.

    Raises:
        InputError: it is undefined for the class that it names, or for all classes.
    """
    known = data.context.class_names
    of_class = class_of(metric)
    names = list(known) if of_class is None else [of_class]
    lacks = {
        split: {
            name: reason
            for name in names
            if (reason := _lacks(metric, data.splits[split], known.index(name)))
        }
        for split in ("val", "test")
    }
    if len(lacks["val"]) == len(names):
        raise InputError(
            f"{metric!r} is undefined on val, where {_told(lacks['val'])}; {_mend(metric, lacks['val'])}{mend}",
            field=field,
        )
    if metric.rpartition("/")[2] == MAD:
        _warn_of_missing_masks(metric, data, names)
    if nowhere := {
        name: reason
        for name, reason in lacks["val"].items()
        if data.selected_on_test or name in lacks["test"]
    }:
        logger.warning(
            "%s: undefined on val%s for some classes, which count nowhere (%s)",
            metric,
            "" if data.selected_on_test else " and test",
            _told(nowhere),
        )
    if data.selected_on_test:
        return
    parts = []
    for one, other in (("val", "test"), ("test", "val")):
        if only := {name: reason for name, reason in lacks[other].items() if name not in lacks[one]}:
            parts.append(f"on {one} alone for some classes ({other}: {_told(only)})")
    if parts:
        logger.warning(
            "%s: defined %s, so that val and test are means over different classes", metric, ", ".join(parts)
        )


def lacking(metric: str, is_anomalous_n: np.ndarray, has_mask_n: np.ndarray) -> str | None:
    """What images of one class, (n,) bool each, lack for a metric to be defined; None where they lack nothing.

    Image metrics and `mad` take normal and defective images, pixel metrics the masks of all defective ones and normal pixels.
    """
    if not is_anomalous_n.any():
        return "no defective image"
    if metric.endswith(PIXEL_METRICS):
        return None if has_mask_n.all() else _NO_MASK
    return "no normal image" if is_anomalous_n.all() else None


def _lacks(metric: str, split: Split, class_index: int) -> str | None:
    positions = np.flatnonzero(split.class_index == class_index)
    is_anomalous_n = split.is_anomalous[positions]
    reason = lacking(metric, is_anomalous_n, split.has_mask[positions])
    if reason is None and is_measured_on_pixels(metric) and split.has_mask[positions].all():
        return _masks_lack(split, positions[is_anomalous_n], has_normal_pixel=not is_anomalous_n.all())
    return reason


def _masks_lack(split: Split, anomalous: np.ndarray, *, has_normal_pixel: bool) -> str | None:
    """Looks at masks, as they are at the size that models see, until a pixel of both kinds is found."""
    has_anomalous_pixel = False
    for position in anomalous:
        mask = split.masks(np.array([position]))
        has_anomalous_pixel |= bool(mask.any())
        has_normal_pixel |= not mask.all()
        if has_anomalous_pixel and has_normal_pixel:
            return None
    return "no normal pixel" if has_anomalous_pixel else _EMPTY_MASKS


def _warn_of_missing_masks(metric: str, data: PreparedData, names: list[str]) -> None:
    known = data.context.class_names
    told = []
    for split_name in ("val",) if data.selected_on_test else ("val", "test"):
        split = data.splits[split_name]
        lacking_masks = {known[c] for c in split.class_index[~split.has_mask]}
        if unmasked := [name for name in names if name in lacking_masks]:
            told.append(f"on {split_name} for {shortened(unmasked)}")
    if told:
        logger.warning(
            "%s: the mean of the image metrics alone %s, where a defective image has no mask",
            metric,
            " and ".join(told),
        )


def _told(lacks: Mapping[str, str]) -> str:
    """`bolt, cloth have no defective image and road has no normal image`."""
    classes = defaultdict(list)
    for name, reason in lacks.items():
        classes[reason].append(name)
    return " and ".join(f"{_listed(names)} {reason}" for reason, names in classes.items())


def _listed(names: list[str]) -> str:
    return f"{shortened(names)} {'has' if len(names) == 1 else 'have'}"


def _mend(metric: str, lacks: Mapping[str, str]) -> str:
    needs_masks = metric.endswith(PIXEL_METRICS) or _EMPTY_MASKS in lacks.values()
    image_metric = ", choose an image metric" if needs_masks else ""
    return f"add what is missing to the test images{image_metric} or set data.validation.from: synthetic"
