"""The offline files of the sink are read back with wandb's own reader."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import wandb
from fake_sweep import (
    CLASSES,
    METRICS,
    NUM_EPOCHS,
    OBJECTIVE,
    play,
    write_fake_sweep,
    write_maps,
)
from wandb_files import new_sink, of_kind, offline_runs, records, summary_of

from hvqray.results import wandb_runs, wandb_sink

NUM_TRIALS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of five trials, mirrored offline."""
    folder = write_fake_sweep(tmp_path_factory.mktemp("runs") / "my sweep", num_trials=NUM_TRIALS)
    trial_folder = folder / ".state" / "trial"
    write_maps(trial_folder, per_class=1, size=16)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
        sink = new_sink(folder, said)
        for number in range(NUM_TRIALS):
            play(sink, number, folder=trial_folder if number < 4 else None)
        sink.log_best(folder / "best")
        sink.close()
    assert said == []
    return folder


def test_one_run_a_trial(folder: Path) -> None:
    assert offline_runs(folder) == [f"t{number:04d}" for number in range(NUM_TRIALS)]


def test_a_trial_has_its_configuration_history_tables_and_images(folder: Path) -> None:
    found = records(folder, "t0001")
    (run,) = of_kind(found, "run")
    assert (run["run_id"], run["display_name"]) == ("0badcafe-t0001", "t0001")
    assert (run["run_group"], run["project"]) == ("my sweep", "anomalies")
    config = run["config"]["update"]
    assert config["params"]["model.fsq_levels"] == [8, 5, 5, 5]
    assert config["model"] == {"name": "hvq"}
    assert config["seed"] == 0
    assert config["selected_on_test"] is False

    history = [each["item"] for each in of_kind(found, "history")]
    epochs = [item for item in history if OBJECTIVE in item]
    assert [item["epoch"] for item in epochs] == list(range(1, NUM_EPOCHS + 1))
    wanted = {f"val/{metric}" for metric in METRICS} | {
        f"val/{name}/{m}" for name in CLASSES for m in METRICS
    }
    assert wanted | {"train/loss", "codebook/top/use", "codebook/q0/perplexity"} <= set(epochs[0])

    flat = json.dumps(history[-1])
    assert "per_class" in flat
    assert "examples" in flat
    files = [file["path"] for each in of_kind(found, "files") for file in each["files"]]
    assert sum(path.startswith("media/images/examples") for path in files) == 3 * len(CLASSES)
    (table,) = [path for path in files if path.startswith("media/table/per_class")]
    (run_folder,) = (folder / "wandb").glob("offline-run-*-t0001")
    content = json.loads((run_folder / "files" / table).read_text())
    assert content["columns"] == ["class", *METRICS, "mad"]
    assert [row[0] for row in content["data"]] == [*CLASSES, "mean"]
    summary = summary_of(found)
    assert (summary["state"], summary["epoch"], summary["epochs"]) == ("COMPLETE", NUM_EPOCHS, NUM_EPOCHS)
    assert (summary["best_epoch"], history[-1]["epoch"]) == (2, 2), (
        "tables and pictures are of the best epoch"
    )


def test_a_failed_trial_says_why_and_has_no_empty_row(folder: Path) -> None:
    found = records(folder, "t0004")
    assert [each["item"]["epoch"] for each in of_kind(found, "history")] == [1]
    assert {
        "state": "FAIL",
        "epochs": 1,
        "error": "RuntimeError: <b>out of memory</b>",
    }.items() <= summary_of(found).items()


def test_results_on_test_are_of_the_model_s_epoch(folder: Path) -> None:
    found = records(folder, "t0002")
    (row,) = [each["item"] for each in of_kind(found, "history") if "per_class_test" in json.dumps(each)]
    assert row["epoch"] == json.loads((folder / "best" / "metrics.json").read_text())["epoch"]
    assert summary_of(found)["epoch"] == NUM_EPOCHS


def test_states_and_exit_codes(folder: Path) -> None:
    for trial_id, code in (("t0000", 0), ("t0003", 0), ("t0004", 1)):
        (ended,) = of_kind(records(folder, trial_id), "exit")
        assert ended.get("exit_code", 0) == code


def test_the_best_model_is_an_artifact_of_its_run(folder: Path) -> None:
    artifacts = {
        trial_id: [each for each in of_kind(records(folder, trial_id), "artifact") if each["type"] == "model"]
        for trial_id in ("t0000", "t0002")
    }
    assert artifacts["t0000"] == []
    (model,) = artifacts["t0002"]
    assert model["name"] == "my-sweep-best"
    contents = model["manifest"]["contents"]
    assert sorted(each["path"] for each in contents) == ["config.yaml", "metrics.json", "model.safetensors"]
    for each in contents:
        staged = Path(each["local_path"])
        assert staged.is_relative_to(folder / "wandb")
        content = staged.read_bytes()
        assert b"/secret" not in content
        assert b"hardware" not in content


def log_best_of_many_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: MagicMock
) -> tuple[dict[str, float], list[str]]:
    """The metrics of a best model of 15 classes, filed in `run`, and what was said."""
    monkeypatch.setattr(wandb_sink.wandb, "init", lambda **arguments: run)
    folder = write_fake_sweep(
        tmp_path / "one", num_trials=1, classes=tuple(f"part {number}" for number in range(15))
    )
    said: list[str] = []
    sink = new_sink(folder, said)
    sink.log_best(folder / "best")
    sink.close()
    return json.loads((folder / "best" / "metrics.json").read_text())["metrics"], said


def test_the_model_of_many_classes_is_filed_with_its_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = MagicMock()
    metrics, said = log_best_of_many_classes(tmp_path, monkeypatch, run)
    assert said == []
    assert len(metrics) > 200
    (artifact,), _ = run.log_artifact.call_args
    assert sorted(artifact.manifest.entries) == ["config.yaml", "metrics.json", "model.safetensors"]
    assert all(entry.skip_cache for entry in artifact.manifest.entries.values()), "no copy for the user"
    means = {f"{split}/{metric}" for split in ("val", "test") for metric in METRICS}
    assert set(artifact.metadata) == {"trial_id", "run_id", "selected_on_test", "train/loss", *means}
    assert artifact.metadata["test/pixel_aupro"] == metrics["test/pixel_aupro"]


def test_a_table_that_fails_takes_no_state_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = MagicMock(summary={})
    run.log.side_effect = [None] * NUM_EPOCHS + [ValueError("no room")]
    monkeypatch.setattr(wandb_sink.wandb, "init", lambda **arguments: run)
    said: list[str] = []
    sink = new_sink(tmp_path, said)
    play(sink, 0)
    sink.close()
    assert said == ["W&B: ValueError: no room (the sweep goes on; its results on disk are complete)"]
    assert run.summary["state"] == "COMPLETE"
    run.finish.assert_called_once_with(exit_code=0)


def test_online_artifacts_are_staged_under_a_name_that_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their manifests tell the server that name."""
    staged: list[Path] = []

    def file(artifact: wandb.Artifact, aliases: list[str]) -> None:
        paths = [Path(str(entry.local_path)) for entry in artifact.manifest.entries.values()]
        assert all(path.resolve().is_relative_to(tmp_path / "one" / "wandb") for path in paths), (
            "there is room"
        )
        assert all(path.is_file() for path in paths)
        staged.extend(paths)

    monkeypatch.setattr(wandb_runs, "_DATA_DIR_OF_USER", None)
    monkeypatch.setenv("WANDB_DATA_DIR", "of the sweep before")
    at_exit: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        wandb_runs.atexit,
        "register",
        lambda function, *more, **options: at_exit.append((function, more, options)),
    )
    run = MagicMock(summary={}, log_artifact=file)
    monkeypatch.setattr(wandb_sink.wandb, "init", lambda **arguments: run)
    folder = write_fake_sweep(tmp_path / "one", num_trials=1)
    said: list[str] = []
    sink = new_sink(folder, said, mode="online")
    sink.log_best(folder / "best")
    sink.close()
    assert said == []
    assert len(staged) == 3
    for path in staged:
        assert str(tmp_path) not in str(path)
        alias = path.parents[3]
        assert alias.parent == Path(tempfile.gettempdir())
        assert alias.exists()
    for function, arguments, options in at_exit:
        function(*arguments, **options)
    assert not alias.exists()
    assert list((folder / "wandb" / "artifacts" / "staging").iterdir()), "the files are W&B's to remove"


def test_results_on_test_are_told_where_the_model_cannot_be_filed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = MagicMock()
    run.log_artifact.side_effect = ValueError("no room")
    metrics, said = log_best_of_many_classes(tmp_path, monkeypatch, run)
    assert said == ["W&B: ValueError: no room (the sweep goes on; its results on disk are complete)"]
    summary = {
        name: value for call in run.summary.update.call_args_list for name, value in call.args[0].items()
    }
    assert summary["test/part 7/pixel_ap"] == metrics["test/part 7/pixel_ap"]
    assert "per_class_test" in run.log.call_args.args[0]


def test_neither_places_nor_machine_leave(folder: Path) -> None:
    for trial_id in ("t0000", "t0002"):
        found = records(folder, trial_id)
        for artifact in of_kind(found, "artifact"):
            for each in artifact["manifest"]["contents"]:
                del each["local_path"]  # where `wandb sync` finds it
        text = json.dumps(found)
        assert "/secret" not in text
        assert str(folder) not in text
        (run,) = of_kind(found, "run")
        assert not run.get("host")
        assert str(Path(tempfile.gettempdir())) not in text
        assert "git" not in run
        assert not any(record["type"] in ("environment", "stats", "output") for record in found)
        assert platform.node() not in text or len(platform.node()) < 4


def test_what_w_and_b_raises_is_told_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**arguments: Any) -> None:
        raise ConnectionError("no\nserver")

    monkeypatch.setattr(wandb_sink.wandb, "init", refuse)
    said: list[str] = []
    sink = new_sink(tmp_path, said)
    for number in range(3):
        play(sink, number)
    sink.close()
    assert said == ["W&B: ConnectionError: no server (the sweep goes on; its results on disk are complete)"]


def test_a_slow_server_delays_neither_trials_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    monkeypatch.setattr(wandb_sink, "_QUEUE_SIZE", 10)
    monkeypatch.setattr(wandb_sink.wandb, "init", lambda **arguments: answered.wait(60))
    said: list[str] = []
    sink = new_sink(tmp_path, said, close_timeout_s=0.2)
    began = time.monotonic()
    for number in range(10):
        play(sink, number)
    assert time.monotonic() - began < 20, "the server answers after 60 s"
    sink.close()
    assert time.monotonic() - began < 20
    assert len(said) == 1
    assert "too slow to keep up" in said[0]
    answered.set()


def test_each_sweep_of_a_process_stages_its_artifacts_in_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sweeps of one class each run one after the other."""
    monkeypatch.setattr(wandb_runs, "_DATA_DIR_OF_USER", None)
    monkeypatch.setenv("WANDB_DATA_DIR", "of the sweep before")
    for name in ("bolt", "nut"):
        new_sink(tmp_path / name, []).close()
        assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / name / "wandb")
    monkeypatch.setattr(wandb_runs, "_DATA_DIR_OF_USER", "elsewhere")
    monkeypatch.setenv("WANDB_DATA_DIR", "elsewhere")
    new_sink(tmp_path / "cloth", []).close()
    assert os.environ["WANDB_DATA_DIR"] == "elsewhere"
