from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from fake_sweep import CLASSES, OBJECTIVE, write_fake_sweep

from hvqray.errors import InputError
from hvqray.results.stored_trials import read_info

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


def test_the_code_version_is_told_and_no_hardware_as_of_the_runs(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "one", num_trials=2)
    build(folder)
    text = (folder / "report.json").read_text()
    environment = read_info(folder).environment
    assert f"version {environment['code_version']}" in text
    assert environment["hardware"] not in text
    assert "2 cores of a processor" not in text, "of the best model"


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


class Server:
    """Stands for W&B's: gives each new view an id, and keeps what it was sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from wandb_workspaces.reports.v2 import interface

        self.views: dict[str, str] = {}
        self.refuses: Exception | None = None
        api = SimpleNamespace(
            projects=lambda entity: [],
            create_project=lambda project, entity: None,
            _service_api=SimpleNamespace(execute_graphql=self.execute, app_url="https://wandb.example"),
        )
        monkeypatch.setattr(interface, "_get_api", lambda: api)

    def execute(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if self.refuses is not None:
            raise self.refuses
        assert "upsertView" in query
        view_id = variables["id"] or f"view{len(self.views)}"
        self.views[view_id] = f"{variables['entityName']}/{variables['projectName']}"
        view = {"id": view_id, "displayName": variables["displayName"], "spec": variables["spec"]}
        return {"upsertView": {"view": view}}


def test_a_report_that_is_built_again_replaces_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(monkeypatch)
    folder = write_fake_sweep(tmp_path / "one", num_trials=2)
    first = build(folder, out=None)
    assert first.startswith("https://wandb.example/team/anomalies/reports/")
    assert build(folder, out=None) == first
    assert server.views == {"view0": "team/anomalies"}
    build(folder, out=None, project="other")
    monkeypatch.setenv("WANDB_BASE_URL", "https://name:password@wandb.other")
    build(folder, out=None, project="other")
    assert server.views == {"view0": "team/anomalies", "view1": "team/other", "view2": "team/other"}
    assert not any("password" in path.read_text() for path in (folder / ".state").glob("*.json"))


def test_without_the_state_folder_it_is_not_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Server(monkeypatch)
    folder = write_fake_sweep(tmp_path / "one", num_trials=2)
    shutil.rmtree(folder / ".state")
    build(folder, out=None)
    assert not (folder / ".state").exists()


def test_a_server_that_refuses_is_told_in_one_line_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(monkeypatch)
    folder = write_fake_sweep(tmp_path / "one", num_trials=2)
    key = "0123456789" * 4
    server.refuses = wandb.errors.AuthenticationError(f"no\n{key} at https://me:pass@wandb.example/team")
    with pytest.raises(InputError) as raised:
        build(folder, out=None)
    assert str(raised.value) == (
        "--wandb: W&B does not take the report (AuthenticationError: no … at https://wandb.example/team);"
        " with WANDB_MODE=offline it is written to a file instead"
    )
    server.refuses = None
    build(folder, out=None)
    server.refuses = wandb.errors.CommError("view not found")
    with pytest.raises(
        InputError,
        match=r"view not found\); .*; if the report was deleted there, remove .*wandb-report\.json",
    ):
        build(folder, out=None)
