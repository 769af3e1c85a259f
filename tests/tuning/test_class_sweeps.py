"""The searches of one class each, one after the other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from small_images import write_small_images, write_space

from hvqray.config.data_sections import DataConfig
from hvqray.config.sweep_file import SweepFile, load_sweep
from hvqray.data.prepare import open_dataset
from hvqray.data.splits import make_splits
from hvqray.errors import InputError
from hvqray.tuning import per_class


@pytest.fixture
def sweeps(tmp_path: Path) -> list[SweepFile]:
    overrides = ["data.classes=[bolt]"], ["data.classes=[cloth]"], ["data.classes=[wood]"]
    return [load_sweep(write_space(tmp_path), each) for each in overrides]


def test_a_class_has_an_equal_share_of_the_time_that_is_left(
    sweeps: list[SweepFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, shares, reports = [100.0], [], []
    monkeypatch.setattr(per_class, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(per_class, "read_joint", lambda folder: f"joint {folder}")
    monkeypatch.setattr(per_class, "build_joint_report", lambda folder, joint: reports.append(joint))
    monkeypatch.setattr(per_class, "print_joint", lambda console, joint: None)
    takes = iter([5.0, 60.0, 1.0])

    def session_of(sweep: SweepFile, time_budget_s: float | None) -> Any:
        def run() -> bool:
            shares.append(time_budget_s)
            now[0] += next(takes)
            return sweep.data["classes"] != ["cloth"]

        return SimpleNamespace(run=run)

    arguments: dict[str, Any] = {"session_of": session_of, "console": Console(quiet=True)}
    assert not per_class.search_classes(sweeps, tmp_path, time_budget_s=30.0, **arguments)
    assert shares == [10.0, 12.5, 1.0], (
        "what one leaves over is for the others; the last has at least a second"
    )
    assert len(reports) == 3, "a report that grows with each class"
    shares.clear()
    takes = iter([0.0])
    assert per_class.search_classes(sweeps[:1], tmp_path, time_budget_s=None, **arguments)
    assert shares == [None]


@pytest.mark.parametrize("damaged_until", [2, 9])
def test_a_damaged_class_is_told_once_all_were_searched(
    sweeps: list[SweepFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged_until: int
) -> None:
    """The search of each lays its own results out again, so one that is yet to come is not waited for in vain."""
    searched: list[str] = []

    def session_of(sweep: SweepFile, time_budget_s: float | None) -> Any:
        return SimpleNamespace(run=lambda: searched.append(sweep.data["classes"][0]) is None)

    def read(folder: Path) -> str:
        if len(searched) < damaged_until:
            raise InputError("is damaged")
        return f"joint {folder}"

    monkeypatch.setattr(per_class, "read_joint", read)
    monkeypatch.setattr(per_class, "build_joint_report", lambda folder, joint: folder / "report.html")
    monkeypatch.setattr(per_class, "print_joint", lambda console, joint: None)
    arguments: dict[str, Any] = {"session_of": session_of, "console": Console(quiet=True)}
    if damaged_until == 9:
        with pytest.raises(InputError, match="is damaged"):
            per_class.search_classes(sweeps, tmp_path, time_budget_s=None, **arguments)
    else:
        assert per_class.search_classes(sweeps, tmp_path, time_budget_s=None, **arguments)
    assert searched == ["bolt", "cloth", "wood"]


def test_groups_of_another_class_s_images_are_none_of_a_class_s_own(tmp_path: Path) -> None:
    data = write_small_images(tmp_path / "data")
    for path in [*(data / "cloth").rglob("*.png")]:
        path.rename(path.with_name(f"{path.stem}_{path.suffix}".replace("_mask_", "_mask")))
    overrides = ["data.validation.group='^([0-9]+)_$'"]
    sweep = load_sweep(write_space(tmp_path), overrides, data_root=str(data))
    bolt, cloth = per_class.class_sweeps(sweep, tmp_path / "runs", cache_dir=None)
    whole = splits_of(sweep)
    for one, class_name in ((bolt, "bolt"), (cloth, "cloth")):
        for part, paths in splits_of(one).items():
            assert paths == {path for path in whole[part] if class_name in path.parts}
    assert cloth.data["validation"]["group"] == "^([0-9]+)_$"
    assert "group" not in bolt.data["validation"]


def test_fixed_fields_that_hold_with_the_parameters_only(tmp_path: Path) -> None:
    data = write_small_images(tmp_path / "data")
    backbones = "{values: [vit_small_patch14_dinov2, vit_base_patch14_dinov2]}"
    overrides = ["data.image_size=98", f"parameters.data.backbone.name={backbones}"]
    sweep = load_sweep(write_space(tmp_path), overrides, data_root=str(data))
    of_classes = per_class.class_sweeps(sweep, tmp_path / "runs", cache_dir=None)
    assert [each.data["classes"] for each in of_classes] == [["bolt"], ["cloth"]]


def splits_of(sweep: SweepFile) -> dict[str, set[Path]]:
    config = DataConfig.model_validate(sweep.data)
    splits = make_splits(open_dataset(config, cache_dir=Path("unused")), config.validation)
    return {part: {splits.samples[row].path for row in rows} for part, rows in splits.rows.items()}
