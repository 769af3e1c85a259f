from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_sweep import CLASSES, METRICS, NUM_EPOCHS, OBJECTIVE, metrics_of, play, start_of

from hvqray.environment import code_version
from hvqray.errors import InputError
from hvqray.results import store as store_module
from hvqray.results import tables
from hvqray.results.events import TrialEnd, TrialStart
from hvqray.results.store import SweepStore
from hvqray.results.stored_trials import journal_path, read_epochs, read_info, read_trials, read_unfinished
from hvqray.results.tables import write_table
from hvqray.training.epoch_report import EpochReport


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sweep"


def report(epoch: int, **metrics: float | None) -> EpochReport:
    return EpochReport(
        epoch, 8, {name.replace("__", "/"): value for name, value in metrics.items()}, 1.0 * epoch
    )


def test_trials_parquet_has_the_columns_of_the_contract(folder: Path) -> None:
    store = SweepStore(folder, resume=False, selected_on_test=False)
    ends = [play(store, number) for number in range(6)]
    store.close()

    table = pq.read_table(folder / "trials.parquet")
    first = ["trial_id", "number", "state", "params"]
    params = [
        f"param.{name}" for name in ("train.lr", "model.codebook_size", "model.quantizer", "model.fsq_levels")
    ]
    last = ["epochs", "duration_s", "config_hash", "seed", "error", "code_version"]
    names = table.column_names
    assert names[: len(first + params)] == first + params
    assert names[-len(last) :] == last
    assert names[len(first + params) : -len(last)] == list(ends[0].metrics)

    kinds = {name: table.schema.field(name).type for name in names}
    assert kinds["param.train.lr"] == kinds[OBJECTIVE] == kinds["duration_s"] == pa.float64()
    assert kinds["param.model.codebook_size"] == kinds["number"] == kinds["seed"] == pa.int64()
    assert kinds["param.model.fsq_levels"] == pa.string()

    rows = table.to_pylist()
    assert [row["state"] for row in rows] == [
        "COMPLETE",
        "COMPLETE",
        "COMPLETE",
        "PRUNED",
        "FAIL",
        "COMPLETE",
    ]
    assert rows[1]["param.model.fsq_levels"] == "[8, 5, 5, 5]"
    assert rows[0]["param.model.fsq_levels"] is None
    assert json.loads(rows[1]["params"]) == start_of(1).params
    assert rows[2][OBJECTIVE] == ends[2].metrics[OBJECTIVE]
    assert rows[4]["error"] == "RuntimeError: <b>out of memory</b>"
    assert rows[4][OBJECTIVE] is None
    assert rows[3]["epochs"] == 2
    assert rows[3]["duration_s"] == 20.0
    assert rows[3]["config_hash"] == "hash3"
    assert {row["code_version"] for row in rows} == {code_version()}


def test_metrics_parquet_is_the_long_form(folder: Path) -> None:
    store = SweepStore(folder, resume=False, selected_on_test=False)
    end = play(store, 0)
    store.close()
    frame = pd.read_parquet(folder / "metrics.parquet")
    assert list(frame.columns) == ["trial_id", "epoch", "split", "class_name", "metric", "value"]
    assert len(frame) == NUM_EPOCHS * len(end.metrics)
    last = frame[frame.epoch == NUM_EPOCHS].set_index(["split", "class_name", "metric"]).value
    for metric in METRICS:
        assert last["val", "mean", metric] == end.metrics[f"val/{metric}"]
        for name in CLASSES:
            assert last["val", name, metric] == end.metrics[f"val/{name}/{metric}"]
    assert last["train", "mean", "loss"] == end.metrics["train/loss"]
    assert last["val", "mean", "codebook/q0/use"] == end.metrics["codebook/q0/use"]


@pytest.mark.parametrize(
    ("values", "stored", "kind"),
    [
        ([1, 2.5], [1.0, 2.5], pa.float64()),
        ([True, False], [True, False], pa.bool_()),
        ([1, "a"], ["1", '"a"'], pa.string()),
        ([1, True], ["1", "true"], pa.string()),
        ([[1, 2], "a"], ["[1, 2]", '"a"'], pa.string()),
        (["a", "b"], ["a", "b"], pa.string()),
    ],
)
def test_kinds_of_parameters(folder: Path, values: list, stored: list, kind: pa.DataType) -> None:
    store = SweepStore(folder, resume=False, selected_on_test=False)
    for number, value in enumerate(values):
        store.on_trial_start(TrialStart(f"t{number}", number, {"a.b": value}, {}, "h", 0))
        store.on_trial_end(TrialEnd(f"t{number}", "COMPLETE", {}, 1, 1.0))
    store.close()
    column = pq.read_table(folder / "trials.parquet")["param.a.b"]
    assert column.type == kind
    assert column.to_pylist() == stored
    assert [trial.params["a.b"] for trial in read_trials(folder)] == values


def test_nan_is_null_everywhere(folder: Path) -> None:
    store = SweepStore(folder, resume=False, selected_on_test=False)
    store.on_trial_start(start_of(0))
    store.on_epoch("t0000", report(1, val__image_auroc=math.nan, train__loss=1.0, val__image_ap=None))
    store.on_trial_end(TrialEnd("t0000", "COMPLETE", {OBJECTIVE: math.nan}, 1, 1.0))
    store.close()
    assert "NaN" not in journal_path(folder).read_text()
    values = dict(
        zip(
            *pq.read_table(folder / "metrics.parquet").select(["metric", "value"]).to_pydict().values(),
            strict=True,
        )
    )
    assert values == {"image_auroc": None, "loss": 1.0, "image_ap": None}
    assert pq.read_table(folder / "trials.parquet")[OBJECTIVE].to_pylist() == [None]


def test_running_trials_show_their_epochs_but_are_no_row(folder: Path) -> None:
    store = SweepStore(folder, resume=False, selected_on_test=False)
    play(store, 0)
    store.on_trial_start(start_of(1))
    store.on_epoch("t0001", report(1, val__image_auroc=0.5))
    store.write_tables()
    assert pq.read_table(folder / "trials.parquet")["trial_id"].to_pylist() == ["t0000"]
    assert set(pq.read_table(folder / "metrics.parquet")["trial_id"].to_pylist()) == {"t0000", "t0001"}
    assert read_unfinished(folder) == [start_of(1)]
    store.close()


@pytest.mark.parametrize("selected", [False, True])
def test_the_files_say_whether_they_are_selected_on_test(folder: Path, selected: bool) -> None:
    store = SweepStore(folder, resume=False, selected_on_test=selected)
    play(store, 0)
    store.close()
    for name in ("trials.parquet", "metrics.parquet"):
        marked = pq.read_schema(folder / name).metadata[b"hvqray.selected_on_test"]
        assert json.loads(marked) is selected


def test_files_follow_events_by_themselves(folder: Path) -> None:
    store = SweepStore(folder, resume=False, selected_on_test=False)
    play(store, 0)
    deadline = time.monotonic() + 20
    while pq.read_table(folder / "trials.parquet").num_rows < 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    store.close()


def test_resume_goes_on_and_a_repeated_epoch_replaces_the_older_report(folder: Path) -> None:
    store = SweepStore(folder, resume=False, selected_on_test=False)
    done = play(store, 0)
    uid = store.info.uid
    store.on_trial_start(start_of(1))
    for epoch in (1, 2, 3):
        store.on_epoch("t0001", report(epoch, val__image_auroc=0.1 * epoch))
    store.close()

    store = SweepStore(folder, resume=True, selected_on_test=False)
    assert store.info.uid == uid
    assert [trial.trial_id for trial in read_trials(folder)] == ["t0000"]
    (unfinished,) = read_unfinished(folder)
    store.on_trial_start(unfinished)
    for epoch in (3, 4):
        store.on_epoch("t0001", report(epoch, val__image_auroc=0.2 * epoch))
    store.on_trial_end(TrialEnd("t0001", "COMPLETE", {OBJECTIVE: 0.8}, 4, 4.0))
    store.close()

    frame = pd.read_parquet(folder / "metrics.parquet").query("trial_id == 't0001'")
    assert frame.epoch.tolist() == [1, 2, 3, 4]
    assert frame.value.tolist() == pytest.approx([0.1, 0.2, 0.6, 0.8])
    assert [trial.metrics[OBJECTIVE] for trial in read_trials(folder)] == [done.metrics[OBJECTIVE], 0.8]
    assert read_unfinished(folder) == []
    assert read_info(folder).uid == uid


def test_what_was_heard_survives_kill_9(folder: Path) -> None:
    script = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; from fake_sweep import play, start_of; from hvqray.results.store import SweepStore\n"
        "store = SweepStore(Path(sys.argv[1]), resume=False, selected_on_test=False)\n"
        "play(store, 0); store.on_trial_start(start_of(1)); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(root / "tests")],
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert [trial.trial_id for trial in read_trials(folder)] == ["t0000"]
    assert read_unfinished(folder) == [start_of(1)]
    SweepStore(folder, resume=True, selected_on_test=False).close()
    assert pq.read_table(folder / "trials.parquet")["trial_id"].to_pylist() == ["t0000"]
    assert read_epochs(folder, "t0000")[NUM_EPOCHS] == metrics_of(0.6 + 0.04 * NUM_EPOCHS, seed=0)


def test_no_file_is_left_aside(folder: Path) -> None:
    store = SweepStore(folder, resume=False, selected_on_test=False)
    play(store, 0)
    store.close()
    assert sorted(path.name for path in folder.iterdir()) == [".state", "metrics.parquet", "trials.parquet"]


def test_what_a_killed_driver_left_aside_is_removed_by_the_next_one(folder: Path) -> None:
    store = SweepStore(folder, resume=False, selected_on_test=False)
    play(store, 0)
    store.close()
    for name in ("sweep.yaml", "trials.parquet", "metrics.parquet"):
        (folder / f".{name}.k1ll3d00").write_text("half of it")
    (folder / ".mine").touch()
    SweepStore(folder, resume=True, selected_on_test=False).close()
    left = {path.name for path in folder.iterdir() if path.name.startswith(".")}
    assert left == {".state", ".mine"}


def test_a_table_that_cannot_be_written_leaves_the_one_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SweepStore(folder, resume=False, selected_on_test=False)
    play(store, 0)
    store.close()

    def half(table: pa.Table, path: Path) -> None:
        path.write_bytes(b"PAR1 and no more")
        raise OSError(28, "No space left on device")

    path = folder / "trials.parquet"
    monkeypatch.setattr(tables.pq, "write_table", half)
    with pytest.raises(OSError, match=r"trials\.parquet"):
        write_table(path, pa.table({"a": [1]}), selected_on_test=False)
    assert pq.read_table(path)["trial_id"].to_pylist() == ["t0000"]
    assert sorted(one.name for one in folder.iterdir()) == [".state", "metrics.parquet", "trials.parquet"]


def test_a_disk_that_is_full_for_a_while_stops_no_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SweepStore(folder, resume=False, selected_on_test=False)
    refused: list[Path] = []

    def full_once(path: Path, table: pa.Table, *, selected_on_test: bool) -> None:
        if not refused:
            refused.append(path)
            raise OSError(28, "No space left on device")
        write_table(path, table, selected_on_test=selected_on_test)

    monkeypatch.setattr(store_module, "write_table", full_once)
    monkeypatch.setattr(store_module, "_MIN_INTERVAL_S", 0.05)
    play(store, 0)
    deadline = time.monotonic() + 20
    while pq.read_table(folder / "trials.parquet").num_rows < 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert refused
    store.close()


def test_sweep_yaml_is_the_file_of_the_latest_start(folder: Path) -> None:
    for text in ("run_cap: 3\n", "run_cap: 9\n"):
        resume = folder.exists()
        SweepStore(folder, resume=resume, selected_on_test=False, sweep_file=text).close()
        assert (folder / "sweep.yaml").read_text() == text


def test_faults_of_the_user(folder: Path) -> None:
    with pytest.raises(InputError, match="holds no sweep to resume; leave out --resume"):
        SweepStore(folder, resume=True, selected_on_test=False)
    with pytest.raises(InputError, match=r"trials\.parquet is missing"):
        read_trials(folder)
    store = SweepStore(folder, resume=False, selected_on_test=False)
    with pytest.raises(InputError, match="another process is running this sweep"):
        SweepStore(folder, resume=True, selected_on_test=False)
    store.close()
    with pytest.raises(InputError, match="already holds a sweep; add --resume"):
        SweepStore(folder, resume=False, selected_on_test=False)


def test_three_hundred_trials_cost_little(folder: Path) -> None:
    store = SweepStore(folder, resume=False, selected_on_test=False)
    began = time.process_time()
    for number in range(300):
        play(store, number)
    store.close()
    assert (time.process_time() - began) / 300 < 0.05
    assert pq.read_table(folder / "trials.parquet").num_rows == 300


def test_who_comes_second_begins_nothing(folder: Path) -> None:
    """Two that both found an empty folder: the second one gets the lock while the first runs, or when it has ended."""
    first = SweepStore(folder, resume=False, selected_on_test=False, sweep_file="the first")
    with pytest.raises(InputError, match="another process is running this sweep; wait until it ends"):
        SweepStore(folder, resume=False, selected_on_test=False, sweep_file="the second")
    first.close()
    journal = journal_path(folder).read_bytes()
    with pytest.raises(InputError, match="already holds a sweep"):
        SweepStore(folder, resume=False, selected_on_test=False, sweep_file="the second")
    assert (folder / "sweep.yaml").read_text() == "the first"
    assert journal_path(folder).read_bytes() == journal
    with store_module.hold_sweep(folder):  # the second one has let go of it
        pass
