"""sweep.yaml is read back as it was written, whatever a value looks like."""

from __future__ import annotations

from pathlib import Path

from hvqray.config.yaml_loader import dump_yaml
from hvqray.results.sweep_folder import read_description


def test_names_that_look_like_dates_or_numbers_are_text(tmp_path: Path) -> None:
    names = ["2024-01-01", "1e3", "010", "12:30:00", "no"]
    content = {
        "name": "2024-02-02",
        "project": "2024-01-01",
        "entity": "2024-01-02",
        "metric": {"name": "val/image_auroc", "goal": "maximize"},
        "data": {"classes": names},
    }
    (tmp_path / "sweep.yaml").write_text(dump_yaml(content))
    description = read_description(tmp_path)
    assert (description.name, description.project, description.entity) == (
        "2024-02-02",
        "2024-01-01",
        "2024-01-02",
    )
    assert description.classes == names


def describe(tmp_path: Path, best: dict[str, object] | None = None, **content: object) -> tuple[str, str]:
    metric = {"name": "val/image_auroc", "goal": "maximize"}
    (tmp_path / "sweep.yaml").write_text(dump_yaml({"name": "one", "metric": metric, **content}))
    if best is not None:
        (tmp_path / "best").mkdir()
        (tmp_path / "best" / "config.yaml").write_text(dump_yaml(best))
    found = read_description(tmp_path)
    return found.image_size, found.seed


def test_size_and_seed_are_the_fixed_ones_or_the_defaults(tmp_path: Path) -> None:
    assert describe(tmp_path) == ("224", "0")
    assert describe(tmp_path, data={"image_size": 96}, train={"seed": 3}) == ("96", "3")


def test_searched_ones_are_told_as_such_until_there_is_a_best_model(tmp_path: Path) -> None:
    searched = {"data.image_size": {"values": [64, 96]}, "train.seed": {"min": 0, "max": 9}}
    assert describe(tmp_path, parameters=searched) == ("64 or 96", "0 to 9")
    best = {"data": {"image_size": 96}, "train": {"seed": 5}}
    assert describe(tmp_path, best, parameters=searched) == ("96", "5")


def test_a_constant_is_told_too(tmp_path: Path) -> None:
    assert describe(tmp_path, parameters={"data.image_size": {"value": 64}}) == ("64", "0")
