"""What is refused before a sweep starts, although the file by itself is right."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from hvqray.config.sweep_file import SweepFile, load_sweep
from hvqray.errors import InputError
from hvqray.models.context import ModelContext
from hvqray.results.store import SweepStore
from hvqray.tuning.session_checks import (
    check_before_ray,
    check_fixed_model,
    check_method,
    check_start,
    trials_in_all,
)

VIT = ModelContext(tuple(f"class{i}" for i in range(15)), 768, (28, 28), 392)


def sweep(tmp_path: Path, parameters: str) -> SweepFile:
    path = tmp_path / "space.yaml"
    path.write_text(
        "metric: {name: val/image_auroc, goal: maximize}\nrun_cap: 2\nmethod: random\n"
        f"parameters: {parameters}\nmodel: {{name: hvq, map_distance: local_mahalanobis}}\n"
    )
    return load_sweep(path)


def test_a_fixed_map_that_no_memory_holds_ends_the_sweep_before_it_starts(tmp_path: Path) -> None:
    checked = sweep(tmp_path, "{train.lr: {min: 0.001, max: 0.01}}")
    with pytest.raises(InputError, match=r"^model.map_distance: .* 768 x 768 matrix .* choose mahala"):
        check_fixed_model(checked, VIT)
    check_fixed_model(checked, ModelContext(VIT.class_names, 192, (14, 14), 224))


def test_what_parameters_decide_is_left_to_the_trials(tmp_path: Path) -> None:
    check_fixed_model(sweep(tmp_path, "{model.router: {values: [none, oracle]}}"), VIT)


@pytest.mark.parametrize(
    ("method", "run_cap", "time_budget_s", "number"),
    [
        ("random", "9", None, 9),
        ("random", "9", 60.0, 9),
        ("random", "null", 60.0, None),
        ("grid", "null", None, 6),
        ("grid", "null", 60.0, 6),
        ("GridSampler", "9", None, 6),
        ("grid", "4", None, 4),
    ],
)
def test_a_sweep_has_as_many_trials_as_its_number_and_its_grid_allow(
    tmp_path: Path, method: str, run_cap: str, time_budget_s: float | None, number: int | None
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        f"metric: {{name: val/image_auroc, goal: maximize}}\nrun_cap: {run_cap}\nmethod: {method}\n"
        "parameters: {model.codebook_size: {values: [4, 8, 16]}, train.seed: {min: 0, max: 1}}\n"
    )
    assert trials_in_all(load_sweep(path), time_budget_s) == number


GRID = "{train.lr: {values: [0.1, 0.2]}, train.epochs: {values: [1, 2]}}"


def with_points(tmp_path: Path, given: str, *overrides: str) -> SweepFile:
    path = tmp_path / "space.yaml"
    path.write_text(
        "metric: {name: val/image_auroc, goal: maximize, target: 0.9}\nmethod: grid\n"
        f"parameters: {GRID}\npoints_to_evaluate: {given}\n"
    )
    return load_sweep(path, overrides)


def test_a_grid_takes_whole_points_only(tmp_path: Path) -> None:
    check_method(with_points(tmp_path, "[{train.lr: 0.1, train.epochs: 2}]"))
    part = with_points(tmp_path, "[{train.lr: 0.1, train.epochs: 2}, {train.lr: 0.1}]")
    with pytest.raises(
        InputError, match=r"^points_to_evaluate: \{'train.lr': 0.1\} leaves parameters to the method"
    ):
        check_method(part)
    check_method(part.model_copy(update={"method": "random"}))


def test_points_and_target_may_change_on_resume_and_the_rest_of_the_metric_may_not(tmp_path: Path) -> None:
    begun = with_points(tmp_path, "[]")
    folder = tmp_path / "runs"
    SweepStore(folder, resume=False, selected_on_test=False, sweep_file=begun.to_yaml()).close()
    (folder / "study.db").touch()
    changed = with_points(tmp_path, "[{train.lr: 0.1, train.epochs: 2}]", "metric.target=0.8")
    check_start(changed, folder, resume=True)
    with pytest.raises(InputError, match="metric differ from what the sweep was begun with"):
        check_start(with_points(tmp_path, "[]", "metric.goal=minimize"), folder, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_sweep_that_runs_is_not_started_a_second_time(tmp_path: Path, resume: bool) -> None:
    checked = sweep(tmp_path, "{train.lr: {min: 0.001, max: 0.01}}")
    folder = tmp_path / "runs"
    store = SweepStore(folder, resume=False, selected_on_test=False, sweep_file=checked.to_yaml())
    with pytest.raises(InputError, match="another process is running this sweep; wait until it ends"):
        check_start(checked, folder, resume=resume)
    store.close()
    with nullcontext() if resume else pytest.raises(InputError, match="already holds a sweep"):
        check_start(checked, folder, resume=resume)


def test_results_that_cannot_be_written_are_told_before_ray_starts(tmp_path: Path) -> None:
    checked = sweep(tmp_path, "{train.lr: {min: 0.001, max: 0.01}}")
    (tmp_path / "file").touch()
    for out, refused in (("runs", False), ("file", True)):
        with pytest.raises(InputError, match=r"^--out .* \(Not a directory\)") if refused else nullcontext():
            check_before_ray(
                checked, tmp_path / out / "s", resume=False, time_budget_s=None, wandb="disabled"
            )
    assert not (tmp_path / "runs").exists()
