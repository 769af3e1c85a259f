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
