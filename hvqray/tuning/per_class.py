"""One model a class: the search of a sweep file for each class by itself, in OUT/NAME/NAME-CLASS."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from hvqray.config.metric_names import class_of
from hvqray.config.sweep_file import SweepFile, names_a_folder
from hvqray.data.cache import cache_dir_or_default
from hvqray.data.dataset import Dataset
from hvqray.data.groups import matches_any
from hvqray.data.objectives import lacking
from hvqray.data.prepare import open_dataset
from hvqray.data.splits import Splits, make_splits
from hvqray.errors import InputError
from hvqray.results.joint import read_joint
from hvqray.results.joint_report import build_joint_report, print_joint

if TYPE_CHECKING:
    from hvqray.tuning.session import SweepSession


def class_sweeps(sweep: SweepFile, folder: Path, *, cache_dir: Path | None) -> list[SweepFile]:
    """A sweep for each class of the data, or of `data.classes`, to run in `folder`.

    Raises:
        InputError: the data cannot be read, an objective is of one class or undefined for one, a class's name
            cannot name a folder, or `folder` is a sweep's.
    """
    for metric in sweep.metric:
        if class_of(metric.name) is not None:
            raise InputError(
                f"{metric.name!r} is of one class, and --per-class searches each by its own; name the mean, such as val/image_auroc",
                field="metric.name",
            )
    config = sweep.base_run_config().data
    dataset = open_dataset(config, cache_dir=cache_dir_or_default(cache_dir))
    if (folder / "sweep.yaml").exists():
        raise InputError(
            "holds a sweep of one model for all classes; choose another name with --set name=NAME",
            source=str(folder),
        )
    for class_name in dataset.class_names:
        if not names_a_folder(f"{sweep.name}-{class_name}"):
            raise InputError(
                f"the class {class_name!r} cannot name a folder, {sweep.name}-{class_name}, which takes up to 100 letters, digits, '.', '_', '-'; rename it, or search it by"
                " --set data.classes=[...] with a name of your own, --set name=NAME",
                field="--per-class",
            )
    _check_objectives(sweep, make_splits(dataset, config.validation), dataset.class_names)
    return [
        sweep.model_copy(
            update={
                "name": f"{sweep.name}-{class_name}",
                "data": {**sweep.data, "classes": [class_name], **_validation(sweep, dataset, class_name)},
            }
        )
        for class_name in dataset.class_names
    ]


def _validation(sweep: SweepFile, dataset: Dataset, class_name: str) -> dict[str, Any]:
    """`data.validation` of the class, where it has to be another: a pattern that groups images of other classes only would be refused
    as one that matches nothing. Without it every image is by itself, as it is beside the others.

    Raises:
        InputError: the dataset's layout has groups of its own, which would come back.
    """
    validation = sweep.data.get("validation") or {}
    samples = [sample for sample in dataset.samples if sample.class_name == class_name]
    if validation.get("group") is None or matches_any(samples, validation["group"]):
        return {}
    if any(sample.group is not None for sample in samples):
        raise InputError(
            f"{validation['group']!r} matches no image of class {class_name!r}; mend it, or leave the class out by data.classes",
            field="data.validation.group",
        )
    return {"validation": {key: value for key, value in validation.items() if key != "group"}}


def _check_objectives(sweep: SweepFile, splits: Splits, class_names: Sequence[str]) -> None:
    """Raise InputError where a class's own sweep would be refused once those before it are done."""
    val = [splits.samples[row] for row in splits.rows["val"]]
    for metric, class_name in product(sweep.metric, class_names):
        of_class = [sample for sample in val if sample.class_name == class_name]
        labels = np.array([sample.is_anomalous for sample in of_class], bool)
        masks = np.array([sample.has_mask for sample in of_class], bool)
        if lack := lacking(metric.name, labels, masks):
            raise InputError(
                f"{metric.name!r} is undefined for class {class_name!r}, which has {lack} in val; add what is missing, set"
                " data.validation.from: synthetic, or leave the class out by data.classes",
                field="metric.name",
            )


def search_classes(
    sweeps: Sequence[SweepFile],
    folder: Path,
    *,
    session_of: Callable[[SweepFile, float | None], SweepSession],
    time_budget_s: float | None,
    console: Console,
) -> bool:
    """Run the sweeps one after the other, and report in `folder` what they come to together; True if all completed a trial.

    `session_of` makes the session of a sweep with its share of the time: of what is left an equal one for each that is to come, so
    that what one leaves over is for those after it.
    """
    ended = None if time_budget_s is None else time.monotonic() + time_budget_s
    has_best = True
    for position, sweep in enumerate(sweeps):
        (class_name,) = sweep.data["classes"]
        console.print(f"class {position + 1} of {len(sweeps)}: {class_name}", markup=False, soft_wrap=True)
        share = None if ended is None else max(1.0, (ended - time.monotonic()) / (len(sweeps) - position))
        has_best &= session_of(sweep, share).run()
        try:
            joint = read_joint(folder)
        except InputError:  # a class that is yet to come may be damaged, and lays its results out again
            if position == len(sweeps) - 1:
                raise
            continue
        report = build_joint_report(folder, joint)
    print_joint(console, joint)
    console.print(f"report: {report}", markup=False, soft_wrap=True)
    return has_best
