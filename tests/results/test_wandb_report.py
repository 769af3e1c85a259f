from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
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
        ("tags", "NIN", ["confirm", "no_quantizer"]),
    ]
    text = json.dumps(panels)
    assert "config:model.value.codebook_size" in text
    assert f"summary:{OBJECTIVE}" in text
    assert all(f"val/{name}/pixel_aupro" in text for name in CLASSES)
    assert "codebook/q0/use" in text
    assert "Selected on test" in json.dumps(spec["blocks"])


def test_missing_names_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_fake_sweep(tmp_path / "one")
    for answer in (None, ""):
        with monkeypatch.context() as patch:
            patch.setattr(wandb, "Api", lambda answer=answer: SimpleNamespace(default_entity=answer))
            with pytest.raises(InputError, match=r"sweep\.yaml: entity: missing, .* give --entity NAME"):
                build(folder, entity=None, out=None)

    def unreachable() -> None:
        raise ConnectionError("no\nserver")

    monkeypatch.setattr(wandb, "Api", unreachable)
    with pytest.raises(
        InputError, match=r"entity: missing, .*\(ConnectionError: no server\); give --entity NAME"
    ):
        build(folder, entity=None, out=None)


def test_online_the_entity_is_the_key_s_own_unless_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb_workspaces.reports.v2 as wr

    saved: list[tuple[str, str]] = []
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(default_entity="my-own"))
    monkeypatch.setattr(wr.Report, "save", lambda report: saved.append((report.entity, report.project)))
    monkeypatch.setattr(wr.Report, "url", "https://wandb.example/report")
    folder = write_fake_sweep(tmp_path / "one", num_trials=2)
    for entity in (None, "team"):
        assert build(folder, entity=entity, out=None) == "https://wandb.example/report"
    assert saved == [("my-own", "anomalies"), ("team", "anomalies")]


def test_a_file_needs_no_entity_and_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> None:
        raise AssertionError("the server is not asked")

    monkeypatch.setattr(wandb, "Api", asked)
    folder = write_fake_sweep(tmp_path / "one", num_trials=2)
    build(folder, entity=None)
    without = json.loads((folder / "report.json").read_text())
    assert without["blocks"]
    assert "anomalies" not in json.dumps(without), "the project"
    build(folder, entity="team")
    assert "team" not in (folder / "report.json").read_text()
