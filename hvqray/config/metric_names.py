"""The metrics that a search may optimise: those of `val`, as the mean over classes or of one class."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from hvqray.errors import did_you_mean

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_aupro")
MAD = "mad"
METRICS = (*IMAGE_METRICS, *PIXEL_METRICS, MAD)


def metric_name_fault(name: str) -> str | None:
    """What is wrong with the name of an objective; None where nothing is.

    >>> metric_name_fault("val/image_auroc"), metric_name_fault("val/cookie/pixel_ap")
    (None, None)
    >>> metric_name_fault("val/image_aurok")
    "'val/image_aurok' is no metric; did you mean 'val/image_auroc'?"
    """
    split, _, rest = name.partition("/")
    class_name, slash, metric = rest.rpartition("/")
    if split == "test" and metric in METRICS:
        return f"{name!r} is measured once, after the search; use {'val/' + rest!r}"
    if split != "val" or metric not in METRICS:
        prefix = f"val/{class_name}{slash}" if split == "val" else "val/"
        return f"{name!r} is no metric{did_you_mean(name, [prefix + known for known in METRICS])}"
    if slash and not class_name.strip():
        return f"{name!r} names no class; write val/CLASS/{metric} or val/{metric}"
    return None


def is_measured_on_pixels(name: str) -> bool:
    """Whether the metric of a valid name is one of the pixel metrics, or made of them."""
    return name.rpartition("/")[2] in (*PIXEL_METRICS, MAD)


def deciding_metrics(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """By which image metrics an image score, and by which pixel metrics a map is chosen where the metric of a valid name is wanted.

    By the mean of those that it is made of; of what it tells nothing by image AUROC or AUPRO.

    >>> deciding_metrics("val/cookie/pixel_ap")
    (('image_auroc',), ('pixel_ap',))
    """
    metric = name.rpartition("/")[2]
    if metric == MAD:
        return IMAGE_METRICS, PIXEL_METRICS
    of_score = metric if metric in IMAGE_METRICS else "image_auroc"
    of_map = metric if metric in PIXEL_METRICS else "pixel_aupro"
    return (of_score,), (of_map,)


def class_of(name: str) -> str | None:
    """The class that a valid metric name speaks of; None for the mean over classes."""
    return name.removeprefix("val/").rpartition("/")[0] or None


def class_fault(name: str, class_names: Collection[str]) -> str | None:
    """What is wrong with the class of a valid metric name beside the classes of the data; None where nothing is.

    >>> class_fault("val/cooky/mad", ["cookie"]), class_fault("val/mad", ["cookie"])
    ("the data have no class 'cooky'; did you mean 'cookie'?", None)
    """
    class_name = class_of(name)
    if class_name is None or class_name in class_names:
        return None
    return f"the data have no class {class_name!r}{did_you_mean(class_name, class_names)}"


def is_of_image_metrics(metrics: Mapping[str, float | None], prefix: str = "") -> bool:
    """Whether the `MAD` of one class, whose metrics' names begin with `prefix`, was taken without pixel metrics.

    It is so where a defective image has no mask, so that none of them is defined.
    """
    on_pixels = [metrics.get(f"{prefix}{name}") for name in PIXEL_METRICS]
    return metrics.get(f"{prefix}{MAD}") is not None and all(value is None for value in on_pixels)
