"""One sweep's best model held against that of another, on the same images: sweeps of all classes, or of one class each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from hvqray.errors import InputError
from hvqray.results.html_report import build_html_report
from hvqray.results.joint import ClassSweep, read_joint
from hvqray.results.store import hold_sweep
from hvqray.results.stored_trials import class_sweep_folders
from hvqray.results.sweep_folder import read_best, read_description
from hvqray.training.measure import SCORES_FILE
from hvqray.tuning.baseline_records import write_other_sweep
from hvqray.tuning.same_data import check_same_images


@dataclass(frozen=True)
class _Pair:
    """Two sweeps with a best model each, of which the second becomes a baseline of the first."""

    folder: Path
    other: Path
    name: str
    """What the second is called: where there is one a class, as they are together."""
    class_name: str | None = None
    """Of the second, where that has others as well."""


def hold_against(folder: Path, other: Path) -> None:
    """Put the best model in `other` among the baselines of that in `folder`, and build the reports of the sweeps in `folder` anew.

    In `folder` may be sweeps of one class each, and in `other` then too, or one of all classes.

    Raises:
        InputError: one of them has no best model, they are on other images, or the other one lacks a class.
    """
    if folder.resolve() == other.resolve():
        raise InputError(f"--against {other}: is the sweep itself; give another one's folder")
    pairs = _pairs(folder, other)
    for pair in pairs:  # all are looked at before one is written to
        for sweep in (pair.folder, pair.other):
            check_best(sweep)
        if pair.class_name is None:
            check_same_images(pair.folder, pair.other)
        else:
            _check_same_test_images(pair.folder, pair.other, pair.class_name)
    for pair in pairs:
        with hold_sweep(pair.folder):
            write_other_sweep(pair.folder / "best", pair.other, name=pair.name, class_name=pair.class_name)
            build_html_report(pair.folder)


def check_best(folder: Path) -> None:
    """Raise InputError where a sweep's folder has no best model."""
    if read_best(folder) is None:
        raise _lacks_best(folder)


def class_sweeps_with_best(folder: Path) -> list[ClassSweep]:
    """The sweeps of one class each in `folder` that have a best model; its joint report names the others.

    Raises:
        InputError: none has.
    """
    found = [one for one in read_joint(folder).sweeps if one.best]
    if not found:
        raise _lacks_best(folder)
    return found


def _lacks_best(folder: Path) -> InputError:
    return InputError("has no best model to hold baselines against", source=str(folder))


def _pairs(folder: Path, other: Path) -> list[_Pair]:
    here, there = class_sweep_folders(folder), class_sweep_folders(other)
    if not here:
        if there:
            raise InputError(
                f"--against {other}: holds sweeps of one class each, and {folder} is one of all; give them the other way round"
            )
        read_description(folder)
        return [_Pair(folder, other, read_description(other).name)]
    if not there:
        name = read_description(other).name
        return [_Pair(one.folder, other, name, one.class_name) for one in class_sweeps_with_best(folder)]
    others = {one.class_name: one.folder for one in read_joint(other).sweeps}
    pairs = []
    for one in class_sweeps_with_best(folder):
        if one.class_name not in others:
            raise InputError(
                f"has no sweep of the class {one.class_name!r}; search it there too", source=str(other)
            )
        pairs.append(_Pair(one.folder, others[one.class_name], other.resolve().name))
    return pairs


def _check_same_test_images(folder: Path, other: Path, class_name: str) -> None:
    """Splits of a class by itself have digests of their own, so the images that were measured are compared, by name."""
    one, two = (_test_images(sweep, class_name) for sweep in (folder, other))
    if one != two:
        how = "others" if len(one) == len(two) else f"{len(two)}, there {len(one)}"
        raise InputError(
            f"was measured on other images of {class_name} than {folder} ({how}); give a sweep on the same data with the same data.validation",
            source=str(other),
        )


def _test_images(folder: Path, class_name: str) -> list[tuple[str, str]]:
    path = folder / "best" / SCORES_FILE
    if not path.exists():
        raise InputError(
            "is missing, so nobody knows which images of test were measured; lay best/ out again by hvqray.sweep with --resume",
            source=str(path),
        )
    rows = pq.read_table(path, columns=["class_name", "defect", "image"]).to_pylist()
    return [(row["defect"], row["image"]) for row in rows if row["class_name"] == class_name]
