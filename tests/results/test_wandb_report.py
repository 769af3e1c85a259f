from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_sweep import CLASSES, OBJECTIVE, write_fake_sweep

from hvqray.errors import InputError

# wandb-workspaces is written against an older pydantic, which says so on import.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def build(folder: Path, **arguments: Any) -> str:
    from hvqray.results.wandb_report import build_wandb_report

    return build_wandb_report(
        folder, **{"entity": "team", "project": None, "out": folder / "report.json", **arguments}
    )


def test_the_file_has_the_panels_of_the_sweep(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "it's a sweep", validation="none")
    assert build(folder) == str(folder / "report.json")
    spec = json.loads((folder / "report.json").read_text())
    grids = [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]
    panels = [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]
    kinds = {panel["viewType"] for panel in panels}
    assert {
        "Scatter Plot",
        "Parameter Importance",
        "Parallel Coordinates Plot",
        "Run History Line Plot",
        "Bar Chart",
        "Media Browser",
    } <= kinds
    filters = grids[0]["runSets"][0]["filters"]["filters"]
    assert [(one["key"]["name"], one["op"], one["value"]) for one in filters] == [
        ("group", "=", "it's a sweep"),
        ("tags", "NIN", ["confirm"]),
    ]
    text = json.dumps(panels)
    assert "config:model.value.codebook_size" in text
    assert f"summary:{OBJECTIVE}" in text
    assert all(f"val/{name}/pixel_aupro" in text for name in CLASSES)
    assert "codebook/q0/use" in text
    assert "Selected on test" in json.dumps(spec["blocks"])


def test_missing_names_are_asked_for(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "one")
    with pytest.raises(InputError, match=r"sweep\.yaml: entity: missing: give --entity NAME"):
        build(folder, entity=None)
