"""What can be known to be wrong with a sweep's start before anything is on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hvqray.atomic import check_folder_can_be_made
from hvqray.config.starting_points import POINTS
from hvqray.config.sweep_file import SweepFile, load_sweep, resolve_run_config
from hvqray.data.files import dataset_root
from hvqray.errors import InputError
from hvqray.results.store import check_not_running
from hvqray.results.stored_trials import check_folder, class_sweep_folders, read_starts
from hvqray.results.study_file import count_studies
from hvqray.results.wandb_mode import resolve_mode
from hvqray.tuning.samplers import EXHAUSTIVE, make_sampler
from hvqray.tuning.space import SearchSpace

if TYPE_CHECKING:
    from hvqray.models.context import ModelContext

MAY_CHANGE_ON_RESUME = (
    "run_cap",
    POINTS,
    "resources",
    "confirm",
    "baselines",
    "description",
    "project",
    "entity",
)


def check_before_ray(
    sweep: SweepFile, folder: Path, *, resume: bool, time_budget_s: float | None, wandb: str | None
) -> None:
    """Raise InputError for what can be seen without Ray, torch or reading the data, so that it is told at once."""
    trials_in_all(sweep, time_budget_s)
    check_method(sweep)
    resolve_mode(wandb)
    check_folder_can_be_made(folder, option="--out")
    check_start(sweep, folder, resume=resume)
    if (root := sweep.data.get("root")) is not None:
        dataset_root(root)


def trials_in_all(sweep: SweepFile, time_budget_s: float | None) -> int | None:
    """How many trials the sweep has; None where only time ends it.

    Raises:
        InputError: neither a number nor time ends it.
    """
    # Only a grid has an end of its own; other samplers may try a configuration twice.
    size = SearchSpace(sweep.parameters).grid_size() if sweep.method in EXHAUSTIVE else None
    number = min((each for each in (sweep.run_cap, size) if each is not None), default=None)
    if number is None and time_budget_s is None:
        raise InputError(
            "is null, so the sweep would never end; give it, --num-trials or --time-budget",
            field="run_cap",
        )
    return number


def check_method(sweep: SweepFile) -> None:
    """Raise InputError where the method cannot search the space, or not from the points that it is to begin with."""
    space = SearchSpace(sweep.parameters)
    make_sampler(sweep.method, 0, len(sweep.metric), space=space)
    for point in sweep.points_to_evaluate if sweep.method in EXHAUSTIVE else ():
        try:
            space.suggested(point)
        except ValueError:
            raise InputError(
                f"{point} leaves parameters to the method, and {sweep.method} would try what it takes for them again; name all of them",
                field=POINTS,
            ) from None


def check_start(sweep: SweepFile, folder: Path, *, resume: bool) -> None:
    """A new sweep finds no other one in its folder, a resumed one finds itself, and no other process runs it; else raises InputError."""
    check_not_running(folder)
    check_folder(folder, resume=resume)
    if resume:
        _check_same_sweep(sweep, folder)
        _check_study(folder)
    elif class_sweep_folders(folder):
        raise InputError(
            "holds sweeps of one class each; choose another name with --set name=NAME, or go on with --per-class --resume",
            source=str(folder),
        )
    elif (study := folder / "study.db").exists():
        raise InputError(
            "is left of another search, whose journal is gone; remove it, or choose another name with --set name=NAME",
            source=str(study),
        )


def _check_same_sweep(sweep: SweepFile, folder: Path) -> None:
    """A resumed sweep may get more trials, other points or another target, other resources or more confirmation; anything else would mix two searches."""
    path = folder / "sweep.yaml"
    before, now = load_sweep(path).model_dump(), sweep.model_dump()
    for content in (before, now):
        for metric in content["metric"]:
            del metric["target"]
    changed = [name for name in now if now[name] != before[name] and name not in MAY_CHANGE_ON_RESUME]
    if changed:
        raise InputError(
            f"{', '.join(changed)} differ from what the sweep was begun with; take the changes back, resume with this"
            " very file, or choose another name with --set name=NAME",
            source=str(path),
        )


def _check_study(folder: Path) -> None:
    """The study is what the search goes on from; one that Optuna would begin anew would not know the trials of the journal."""
    path = folder / "study.db"
    mend = "restore it, or search anew under another name with --set name=NAME; hvqray.report needs none"
    found = count_studies(path, mend=mend) if path.exists() else None
    if not found and read_starts(folder):
        what = "is missing" if found is None else "holds no study"
        raise InputError(f"{what}, and without it the search cannot go on; {mend}", source=str(path))


def check_fixed_model(sweep: SweepFile, context: ModelContext) -> None:
    """Raise InputError where the sweep file's own model section asks for more memory than any trial could have.

    What parameters decide is left to the trials, each of which fails or does not.
    """
    if any(
        name.startswith("model.map_") or name in ("model.name", "model.router") for name in sweep.parameters
    ):
        return
    try:
        model = resolve_run_config(sweep, {}).model
    except InputError:  # the fixed part is no configuration without its parameters
        return
    from hvqray.models.build import check_map_fits  # torch is imported while Ray starts, not before

    check_map_fits(model, context)
