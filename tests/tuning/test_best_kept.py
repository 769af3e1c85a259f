"""What users put beside the best model outlives a resumed sweep."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hvqray.results.confirmation import ConfirmedConfiguration, Spread
from hvqray.training.checkpoint import METRICS_FILE, MODEL_FILE
from hvqray.tuning.best import install_best
from hvqray.tuning.measured import measured_folder

PADIM = {"name": "padim", "settings": {}, "metrics": {"test/image_auroc": 0.8}}
MORE = {"more": {"test/image_auroc": {"low": 0.0, "high": 0.1}}}


def measured_run(folder: Path, run_id: str) -> None:
    run = measured_folder(folder, run_id)
    (run / "maps").mkdir(parents=True)
    content = {"trial_id": run_id, "selected_on_test": False, "metrics": {"val/image_auroc": 0.9}}
    (run / METRICS_FILE).write_text(json.dumps(content))
    (run / MODEL_FILE).write_text(run_id)
    (run / "maps" / "bolt_000_map.png").write_text("a picture")


def over_seeds(trial_id: str, *seeds: int) -> ConfirmedConfiguration:
    spread = Spread([0.5] * len(seeds), 0.5, 0.0)
    runs = [f"{trial_id}-s{seed}" for seed in seeds]
    return ConfirmedConfiguration(trial_id, list(seeds), runs, {"val/image_auroc": spread}, {})


def put_beside(best: Path, **added: Any) -> None:
    """What `hvqray.export` and `hvqray.baseline` do."""
    (best / "model.onnx").write_text("exported")
    record = json.loads((best / METRICS_FILE).read_text())
    (best / METRICS_FILE).write_text(json.dumps(record | added))


@pytest.mark.parametrize("confirmed", [[], [over_seeds("t0001", 0, 1)]])
def test_the_same_best_model_is_left_alone(tmp_path: Path, confirmed: list[ConfirmedConfiguration]) -> None:
    run_id = "t0001-s0" if confirmed else "t0001"
    measured_run(tmp_path, run_id)
    install_best(tmp_path, "t0001", run_id, confirmed)
    put_beside(tmp_path / "best", baselines=[PADIM | MORE])
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in (tmp_path / "best").glob("*.*")}
    assert install_best(tmp_path, "t0001", run_id, confirmed) is None
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in before} == before
    assert {path.name for path in tmp_path.iterdir()} == {".state", "best"}


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_text("t000!")])
def test_a_file_that_is_not_whole_is_laid_out_again_beside_what_users_added(
    tmp_path: Path, harm: Any
) -> None:
    measured_run(tmp_path, "t0001")
    install_best(tmp_path, "t0001", "t0001")
    best = tmp_path / "best"
    put_beside(best, baselines=[PADIM | MORE])
    (best / "notes").mkdir()
    (best / "notes" / "a.txt").write_text("mine")
    harm(best / MODEL_FILE)
    assert install_best(tmp_path, "t0001", "t0001") is None
    assert (best / MODEL_FILE).read_text() == "t0001"
    assert (best / "model.onnx").read_text() == "exported"
    assert (best / "notes" / "a.txt").read_text() == "mine"
    assert json.loads((best / METRICS_FILE).read_text())["baselines"] == [PADIM | MORE]


def test_another_best_model_leaves_the_earlier_folder_whole_where_users_added_to_it(tmp_path: Path) -> None:
    for run_id in ("t0001", "t0002", "t0003"):
        measured_run(tmp_path, run_id)
        told = install_best(tmp_path, run_id, run_id, baselines=["padim"])
        if run_id == "t0001":
            assert told is None
            put_beside(tmp_path / "best", baselines=[PADIM, PADIM | {"name": "patchcore"}])
        elif run_id == "t0002":
            kept = tmp_path / "best-t0001"
            assert told is not None
            assert told.endswith(f"which stays in {kept}, with model.onnx, baseline patchcore")
            assert (kept / "model.onnx").exists()
            assert (kept / MODEL_FILE).read_text() == "t0001"
    assert told is None
    assert {path.name for path in tmp_path.iterdir()} == {".state", "best", "best-t0001"}
    assert {path.name for path in (tmp_path / "best").iterdir()} == {METRICS_FILE, MODEL_FILE, "maps"}


def test_baselines_outlive_a_confirmation_over_more_seeds_but_not_their_intervals(tmp_path: Path) -> None:
    measured_run(tmp_path, "t0001-s0")
    install_best(tmp_path, "t0001", "t0001-s0", [over_seeds("t0001", 0)])
    put_beside(tmp_path / "best", baselines=[PADIM | MORE, PADIM | {"name": "no_quantizer"}])
    told = install_best(tmp_path, "t0001", "t0001-s0", [over_seeds("t0001", 0, 1)])
    assert told is not None
    assert "other seeds than before" in told
    record = json.loads((tmp_path / "best" / METRICS_FILE).read_text())
    assert record["baselines"] == [PADIM]
    assert record["confirm"][0]["seeds"] == [0, 1]
    assert (tmp_path / "best" / "model.onnx").exists()


def test_the_run_without_a_quantiser_is_no_other_confirmation(tmp_path: Path) -> None:
    measured_run(tmp_path, "t0001-s0")
    confirmed = [over_seeds("t0001", 0)]
    install_best(tmp_path, "t0001", "t0001-s0", confirmed)
    record = json.loads((tmp_path / "best" / METRICS_FILE).read_text())
    entry = record["confirm"][0] | {"trial_id": "t0001-no-quantizer"}
    put_beside(tmp_path / "best", confirm=[*record["confirm"], entry])
    before = (tmp_path / "best" / METRICS_FILE).read_bytes()
    assert install_best(tmp_path, "t0001", "t0001-s0", confirmed) is None
    assert (tmp_path / "best" / METRICS_FILE).read_bytes() == before


def test_differences_that_an_earlier_version_did_not_work_out_are_put_into_its_record(tmp_path: Path) -> None:
    measured_run(tmp_path, "t0001-s0")
    confirmed = [over_seeds("t0001", 0), over_seeds("t0002", 0)]
    install_best(tmp_path, "t0001", "t0001-s0", confirmed)
    path = tmp_path / "best" / METRICS_FILE
    record = json.loads(path.read_text())
    without = record["confirm"][0] | {"trial_id": "t0001-no-quantizer"}
    put_beside(tmp_path / "best", confirm=[*record["confirm"], without], baselines=[PADIM | MORE])
    confirmed[1] = replace(confirmed[1], more={"test/image_auroc": (0.0, 0.1)})
    assert install_best(tmp_path, "t0001", "t0001-s0", confirmed) is None
    found = json.loads(path.read_text())
    assert [each["trial_id"] for each in found["confirm"]] == ["t0001", "t0002", "t0001-no-quantizer"]
    assert [each.get("more") for each in found["confirm"]] == [{}, MORE["more"], {}]
    assert found["baselines"] == [PADIM | MORE]
    assert (tmp_path / "best" / "model.onnx").exists()


def test_a_folder_that_a_killed_sweep_had_put_away_comes_back(tmp_path: Path) -> None:
    measured_run(tmp_path, "t0001")
    install_best(tmp_path, "t0001", "t0001")
    put_beside(tmp_path / "best")
    (tmp_path / ".best.killed").mkdir()
    (tmp_path / "best").rename(tmp_path / ".best.killed" / "old")
    install_best(tmp_path, "t0001", "t0001")
    assert (tmp_path / "best" / "model.onnx").exists()
    assert {path.name for path in tmp_path.iterdir()} == {".state", "best"}
