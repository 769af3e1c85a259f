"""Choosing the best model, and its folder for users."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from small_checkpoint import write_checkpoint, write_dataset

from hvqray.config.run_config import load_run_config
from hvqray.config.sections import RunConfig
from hvqray.errors import InputError
from hvqray.results.confirm_store import ConfirmStore
from hvqray.results.confirmation import ConfirmedConfiguration, Spread
from hvqray.results.events import Goal, TrialStart
from hvqray.results.history import TrialRecord
from hvqray.results.store import SweepStore
from hvqray.results.sweep_folder import read_best
from hvqray.training.checkpoint import CONFIG_FILE, METRICS_FILE, MODEL_FILE, load_model, trial_folder
from hvqray.training.measure import PIXELS_FILE, SCORES_FILE, read_test_scores
from hvqray.tuning import best as best_module
from hvqray.tuning import measured
from hvqray.tuning.best import best_confirmed, best_trials, install_best
from hvqray.tuning.measured import measure_run, measure_runs, measured_folder
from hvqray.tuning.resources import TrialResources

METRIC = "val/image_auroc"


def record(number: int, value: float | None, state: Any = "COMPLETE") -> TrialRecord:
    return TrialRecord(f"t{number:04d}", number, state, {}, {METRIC: value}, 3, 1.0, "hash", 0, None, "0.1.0")


@pytest.mark.parametrize(
    ("goal", "expected"), [("maximize", ["t0003", "t0005"]), ("minimize", ["t0001", "t0005"])]
)
def test_the_best_trials_are_complete_and_have_the_best_values(goal: Goal, expected: list[str]) -> None:
    trials = [
        record(0, 0.99, "PRUNED"),
        record(1, 0.2),
        record(2, None),
        record(3, 0.8),
        record(4, 0.01, "FAIL"),
        record(5, 0.5),
    ]
    assert [trial.trial_id for trial in best_trials(trials, {METRIC: goal}, 2)] == expected


def test_without_a_complete_trial_there_is_no_best_one() -> None:
    assert best_trials([record(0, 0.9, "PRUNED"), record(1, None, "FAIL")], {METRIC: "maximize"}, 1) == []


def confirmed(trial_id: str, *values: float, failed: bool = False) -> ConfirmedConfiguration:
    spread = Spread(list(values), mean=sum(values) / len(values), std=0.1)
    return ConfirmedConfiguration(
        trial_id=trial_id,
        seeds=list(range(len(values))),
        run_ids=[f"{trial_id}-s{seed}" for seed in range(len(values))],
        metrics={METRIC: spread, "test/image_auroc": Spread(list(values)[::-1], spread.mean, 0.1)},
        failed={f"{trial_id}-s9": "it diverged"} if failed else {},
    )


@pytest.mark.parametrize(
    ("goal", "expected"), [("maximize", ("t0002", "t0002-s1")), ("minimize", ("t0001", "t0001-s1"))]
)
def test_the_best_configuration_is_that_of_the_best_mean_on_val(
    goal: Goal, expected: tuple[str, str]
) -> None:
    configurations = [
        confirmed("t0001", 0.99, 0.5, 0.6),
        confirmed("t0002", 0.8, 0.9, 0.85),
        confirmed("t0003", 0.7, 0.8, 0.75),
    ]
    assert best_confirmed(configurations, {METRIC: goal}) == expected


def test_a_configuration_that_failed_with_a_seed_is_not_the_best() -> None:
    flaky, steady = confirmed("t0001", 0.99, 0.99, failed=True), confirmed("t0002", 0.5, 0.6)
    assert best_confirmed([flaky, steady], {METRIC: "maximize"}) == ("t0002", "t0002-s1")
    assert best_confirmed([flaky], {METRIC: "maximize"}) is None


@pytest.fixture
def sweep(tmp_path: Path) -> tuple[Path, Path]:
    """A sweep's folder with trial t0000, and the cache."""
    write_dataset(tmp_path / "data")
    folder, cache = tmp_path / "runs" / "s", tmp_path / "cache"
    model = {"name": "hvq", "width": 16, "num_heads": 2, "feedforward_width": 32, "codebook_size": 4}
    write_checkpoint(trial_folder(folder, "t0000"), tmp_path / "data", cache, model=model)
    return folder, cache


def test_best_is_a_whole_checkpoint_measured_on_test(sweep: tuple[Path, Path]) -> None:
    folder, cache = sweep
    trial = trial_folder(folder, "t0000")
    before = (trial / METRICS_FILE).read_bytes()
    stale = trial / ".measured.killed"
    stale.mkdir()
    measure_run(folder, "t0000", 1, 0.0, cache)
    install_best(folder, "t0000", "t0000")
    assert {path.name for path in (folder / "best").iterdir()} == {
        "config.yaml",
        "model.safetensors",
        "metrics.json",
        "maps",
        SCORES_FILE,
        PIXELS_FILE,
    }
    found = json.loads((folder / "best" / METRICS_FILE).read_text())
    assert found["metrics"]["test/image_auroc"] is not None
    assert "confirm" not in found
    assert load_model(folder / "best").config == load_model(trial).config
    assert (trial / METRICS_FILE).read_bytes() == before, "the trial itself never sees test"
    assert {path.name for path in folder.iterdir()} == {".state", "best"}
    assert not stale.exists()
    for images in read_test_scores(measured_folder(folder, "t0000")).values():
        assert images.is_anomalous_n.shape == images.score_n.shape == (6,)
        assert images.is_anomalous_n.sum() == 3
        assert sorted(images.group_n) == [0, 1, 2, 3, 4, 5], "each is by itself"


def test_a_run_whose_measuring_was_cut_off_counts_as_not_measured(
    sweep: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = sweep

    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no test data")

    monkeypatch.setattr("hvqray.training.measure.measure_on_test", broken)
    with pytest.raises(RuntimeError, match="no test data"):
        measure_run(folder, "t0000", 1, 0.0, cache)
    assert not measured_folder(folder, "t0000").exists()


def test_what_is_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    monkeypatch.setattr(measured, "_measure_in_tasks", lambda folder, run_ids, *_: asked.extend(run_ids))
    monkeypatch.setattr(measured, "_check_checkpoints", lambda *arguments: None)
    measured_folder(tmp_path, "t0000-s1").mkdir(parents=True)
    resources = TrialResources(workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, max_concurrent_trials=2)
    measure_runs(tmp_path, ["t0000-s0", "t0000-s1", "t0000-s2"], resources=resources, cache_dir=None)
    assert asked == ["t0000-s0", "t0000-s2"]


def test_a_single_run_is_measured_here_unless_it_wants_a_gpu_or_there_are_other_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_here: list[tuple[str, str, int]] = []
    asked: list[str] = []

    def measure(aside: Path, *, device: str, cache_dir: Path | None) -> None:
        measured_here.append((aside.parent.name, device, torch.get_num_threads()))

    monkeypatch.setattr(measured, "_measure_in_tasks", lambda folder, run_ids, *_: asked.extend(run_ids))
    monkeypatch.setattr("hvqray.training.measure.measure_on_test", measure)
    monkeypatch.setattr(measured, "_check_classes", lambda checkpoint, cache_dir: None)
    for run_id, gpus, nodes in (("t0000", 0.0, 1), ("t0001", 0.5, 1), ("t0002", 0.0, 2)):
        monkeypatch.setattr("ray.nodes", lambda nodes=nodes: [{"Alive": True}] * nodes + [{"Alive": False}])
        run = trial_folder(tmp_path, run_id)
        run.mkdir(parents=True)
        for name in (CONFIG_FILE, METRICS_FILE, MODEL_FILE):
            (run / name).write_text(name)
        resources = TrialResources(
            workers=1, cpus_per_worker=3.0, gpus_per_worker=gpus, max_concurrent_trials=2
        )
        measure_runs(tmp_path, [run_id], resources=resources, cache_dir=None)
    assert (measured_here, asked) == ([("t0000", "cpu", 3)], ["t0001", "t0002"])
    assert torch.get_num_threads() == 1
    assert (measured_folder(tmp_path, "t0000") / MODEL_FILE).read_text() == MODEL_FILE


def test_a_new_best_takes_the_old_one_s_place_only_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "s"
    run = measured_folder(folder, "t0004-s1")
    run.mkdir(parents=True)
    content = {"trial_id": "t0004-s1", "selected_on_test": False, "metrics": {METRIC: 0.9}}
    (run / METRICS_FILE).write_text(json.dumps(content))
    (folder / "best").mkdir()
    (folder / "best" / "old.txt").write_text("old")
    (folder / ".best.of-a-killed-process").mkdir()
    configurations = [confirmed("t0004", 0.8, 0.9)]

    def broken(*arguments: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(best_module, "write_record", broken)
        with pytest.raises(OSError, match="disk full"):
            install_best(folder, "t0004", "t0004-s1", configurations)
    assert [path.name for path in (folder / "best").iterdir()] == ["old.txt"]
    assert {path.name for path in folder.iterdir()} == {".state", "best"}
    install_best(folder, "t0004", "t0004-s1", configurations)
    best = read_best(folder)
    assert best is not None
    assert (best.trial_id, best.run_id, best.confirmed) == ("t0004", "t0004-s1", configurations)
    assert not (folder / "best" / "old.txt").exists()
    assert (folder / "best-earlier" / "old.txt").read_text() == "old", "whose it was is not known"


def measured_run(folder: Path, run_id: str) -> None:
    measured_folder(folder, run_id).mkdir(parents=True)
    content = {"trial_id": run_id, "selected_on_test": False, "metrics": {METRIC: 0.9}}
    (measured_folder(folder, run_id) / METRICS_FILE).write_text(json.dumps(content))


def test_a_sweep_killed_between_the_two_renames_is_mended_by_the_next_start(tmp_path: Path) -> None:
    measured_run(tmp_path, "t0002")
    (tmp_path / ".best.killed" / "old").mkdir(parents=True)
    (tmp_path / ".best.killed" / "new").mkdir()
    assert read_best(tmp_path) is None
    install_best(tmp_path, "t0002", "t0002")
    best = read_best(tmp_path)
    assert best is not None
    assert best.trial_id == "t0002"
    assert {path.name for path in tmp_path.iterdir()} == {".state", "best"}


def test_where_the_new_best_cannot_be_renamed_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_run(tmp_path, "t0002")
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "old.txt").write_text("old")
    rename = Path.rename

    def refusing(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError("the server is gone")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(OSError, match="the server is gone"):
        install_best(tmp_path, "t0002", "t0002")
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["old.txt"]


def test_a_damaged_best_is_laid_out_again_with_all_its_figures(tmp_path: Path) -> None:
    measured_run(tmp_path, "t0004-s1")
    configurations = [confirmed("t0004", 0.8, 0.9)]
    install_best(tmp_path, "t0004", "t0004-s1", configurations)
    whole = read_best(tmp_path)
    for damaged in ("{", "{}", "[]", '{"trial_id": "t0004", "selected_on_test": false, "metrics": 3}'):
        (tmp_path / "best" / METRICS_FILE).write_text(damaged)
        with pytest.raises(
            InputError, match=r"best/metrics\.json: is damaged \(.*\); hvqray\.sweep with --resume lays"
        ):
            read_best(tmp_path)
        install_best(tmp_path, "t0004", "t0004-s1", configurations)
        assert read_best(tmp_path) == whole


RESOURCES = TrialResources(workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, max_concurrent_trials=2)


def test_a_checkpoint_that_is_gone_can_be_made_again(tmp_path: Path) -> None:
    """By the command that is told, which takes the configuration from the trial's folder."""
    config = RunConfig.model_validate({"model": {"name": "hvq"}, "train": {"seed": 5}})
    start = TrialStart("t0000", 0, {}, config.model_dump(mode="json", by_alias=True), "hash", 5)
    with closing(SweepStore(tmp_path, resume=False, selected_on_test=False)) as store:
        store.on_trial_start(start)
    with closing(ConfirmStore(tmp_path, code_version="1")) as confirm_store:
        confirm_store.on_trial_start(replace(start, trial_id="t0000-s1", confirms="t0000"))
    run = trial_folder(tmp_path, "t0000")
    with pytest.raises(InputError) as refused:
        measure_runs(tmp_path, ["t0000", "t0000-s1"], resources=RESOURCES, cache_dir=Path("/c d"))
    assert str(refused.value) == (
        f"{tmp_path}: the checkpoint of t0000 is gone; train it again by `python -m hvqray.train --trial {tmp_path}:t0000 --out {run} --cache-dir '/c d'`,"
        " and likewise those of t0000-s1, then give the sweep's command again with --resume"
    )
    for run_id in ("t0000", "t0000-s1"):
        assert load_run_config(trial_folder(tmp_path, run_id) / CONFIG_FILE) == config


def test_a_model_is_not_measured_on_other_classes(sweep: tuple[Path, Path], tmp_path: Path) -> None:
    folder, cache = sweep
    (tmp_path / "data" / "bolt").rename(tmp_path / "data" / "nut")
    with pytest.raises(InputError) as refused:
        measure_run(folder, "t0000", 1, 0.0, cache)
    assert "the model was trained on the classes bolt, cloth, and the data have cloth, nut" in str(
        refused.value
    )
    assert str(trial_folder(folder, "t0000")) in str(refused.value)
    assert not list(trial_folder(folder, "t0000").glob("*measured*"))


class Tasks:
    """Stands for Ray's tasks and the rooms they have: each task ends in the turn of `ray.wait` that `ends` gives it."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, ends: dict[str, int], error: Exception | None = None
    ) -> None:
        self._ends, self._error = ends, error
        self._turn = 0
        self.begun: list[str] = []
        self.needs: dict[str, Any] = {}
        self.rooms: list[dict[str, float]] = []
        self.removed: list[int] = []
        self.looks: list[int] = []
        monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True}] * 2)
        monkeypatch.setattr("ray.remote", self._remote)
        monkeypatch.setattr("ray.wait", self._wait)
        monkeypatch.setattr("ray.get", self._get)
        monkeypatch.setattr("ray.util.placement_group", self._room)
        monkeypatch.setattr("ray.util.remove_placement_group", self.removed.append)
        monkeypatch.setattr("hvqray.tuning.room.RoomWatch.look", lambda watch: self.looks.append(self._turn))

    def _remote(self, **needs: Any) -> Any:
        self.needs = needs

        def begin(folder: Path, run_id: str, *arguments: Any) -> str:
            self.begun.append(run_id)
            return run_id

        return lambda function: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=begin))

    def _room(self, bundles: list[dict[str, float]]) -> int:
        self.rooms += bundles
        return len(self.rooms) - 1

    def _wait(self, tasks: list[str], timeout: float) -> tuple[list[str], list[str]]:
        self._turn += 1
        ended = [task for task in tasks if self._ends[task] <= self._turn]
        return ended, [task for task in tasks if task not in ended]

    def _get(self, task: str) -> None:
        if self._error:
            raise self._error


def test_each_run_has_a_room_of_its_own_and_what_waits_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = Tasks(monkeypatch, {"t0000-s0": 2, "t0000-s1": 4})
    monkeypatch.setattr(measured, "_check_checkpoints", lambda *arguments: None)
    resources = TrialResources(2, 1.0, 0.5, 2, memory_per_worker=2**30)
    measure_runs(tmp_path, ["t0000-s0", "t0000-s1"], resources=resources, cache_dir=None)
    assert tasks.begun == ["t0000-s0", "t0000-s1"]
    assert tasks.rooms == [{"CPU": 1.0, "GPU": 0.5, "memory": 2**30}] * 2
    assert (tasks.needs["num_cpus"], tasks.needs["num_gpus"], tasks.needs["memory"]) == (1.0, 0.5, 2**30)
    assert tasks.looks == [1, 3], "while none has ended"
    assert set(tasks.removed) == {0, 1}


def test_what_another_process_says_of_the_input_is_told_as_such(
    sweep: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ray.exceptions.RayTaskError("measure_run", "a traceback", InputError("the classes differ"))
    tasks = Tasks(monkeypatch, {"t0000": 1}, error)
    with pytest.raises(InputError, match=r"^the classes differ$"):
        measure_runs(sweep[0], ["t0000"], resources=RESOURCES, cache_dir=None)
    assert tasks.removed == [0]
