from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest
from fake_sweep import start_of

from hvqray.errors import InputError
from hvqray.results.confirm_store import ConfirmStore, confirm_journal_path
from hvqray.results.events import TrialEnd
from hvqray.results.store import SweepStore
from hvqray.results.wandb_earlier import FiledRuns, offline_folders, read_earlier_runs, remove_empty_logs
from hvqray.training.epoch_report import EpochReport

HEADER = b":W&B\x24\xbe\x00"


def chunk(length: int, kind: int = 1) -> bytes:
    return struct.pack("<IHB", 0, length, kind) + b"x" * length


def write_log(folder: Path, name: str, content: bytes) -> Path:
    run_folder = folder / name
    run_folder.mkdir(parents=True)
    (run_folder / "run-0badcafe-t0000.wandb").write_bytes(content)
    return run_folder


@pytest.mark.parametrize(
    ("content", "empty"),
    [
        (b"", True),
        (HEADER, True),
        (HEADER + chunk(90)[:4], True),
        (HEADER + chunk(90)[:-1], True),
        (HEADER + bytes(100), True),
        (HEADER + chunk(32754, kind=2), True),
        (HEADER + chunk(32754, kind=2) + chunk(50, kind=4)[:-1], True),
        (HEADER + chunk(32754, kind=2) + chunk(50, kind=4), False),
        (HEADER + chunk(90), False),
        (HEADER + chunk(90) + chunk(20)[:-3], False),
    ],
)
def test_offline_runs_without_a_record_are_removed(tmp_path: Path, content: bytes, empty: bool) -> None:
    run_folder = write_log(tmp_path, "offline-run-20260101_000000-0badcafe-t0000", content)
    online = write_log(tmp_path, "run-20260101_000000-0badcafe-t0000", content)
    remove_empty_logs(tmp_path)
    assert run_folder.exists() is not empty
    assert online.exists(), "the server has it"


def test_a_run_s_folders_are_found_by_its_own_id_only(tmp_path: Path) -> None:
    found = [
        write_log(tmp_path, name, HEADER)
        for name in (
            "offline-run-20260101_000000-0badcafe-t0000",
            "offline-run-20260101_000000-0badcafe-t0000-1",
        )
    ]
    other = tmp_path / "offline-run-20260101_000000-0badcafe-t0000-s1"
    other.mkdir()
    (other / "run-0badcafe-t0000-s1.wandb").write_bytes(HEADER)
    write_log(tmp_path, "run-20260101_000000-0badcafe-t0000", HEADER)
    assert sorted(offline_folders(tmp_path, "0badcafe-t0000")) == found


def test_what_the_journals_have_of_runs(tmp_path: Path) -> None:
    store = SweepStore(tmp_path, resume=False, selected_on_test=False)
    store.on_trial_start(start_of(0))
    for epoch in (1, 2):
        store.on_epoch("t0000", EpochReport(epoch, 3, {"val/mad": 0.25 * epoch}, 10.0 * epoch))
    store.on_trial_start(start_of(0))  # goes on
    store.on_epoch("t0000", EpochReport(2, 3, {"val/mad": 0.625}, 25.0))
    store.on_trial_start(start_of(1))
    store.on_trial_end(TrialEnd("t0001", "COMPLETE", {"val/mad": 0.5}, 0, 0.0, best_epoch=2))
    store.close()
    retraining = replace(start_of(0), trial_id="t0000-s1", confirms="t0000")
    confirm = ConfirmStore(tmp_path, code_version="1.0")
    for metrics, state in (({"val/mad": 0.125}, "FAIL"), ({"val/mad": 0.75}, None)):
        confirm.on_trial_start(retraining)
        confirm.on_epoch("t0000-s1", EpochReport(1 if state is None else 2, 3, metrics, 5.0))
        if state:
            confirm.on_trial_end(TrialEnd("t0000-s1", "FAIL", {}, 2, 5.0, error="it diverged"))
    confirm.close()

    runs = read_earlier_runs(tmp_path, lambda run_id: True)
    assert runs["t0000"].start == start_of(0)
    assert runs["t0000"].epochs == {1: ({"val/mad": 0.25}, 10.0), 2: ({"val/mad": 0.625}, 25.0)}
    assert runs["t0000"].end is None
    assert runs["t0001"].end == TrialEnd("t0001", "COMPLETE", {"val/mad": 0.5}, 0, 0.0, best_epoch=2)
    again = runs["t0000-s1"]
    assert (again.start, again.end) == (retraining, None)
    assert again.epochs == {1: ({"val/mad": 0.75}, 5.0)}, "of the attempt that failed nothing"
    assert read_earlier_runs(tmp_path, "t0001".__eq__).keys() == {"t0001"}


def test_journals_that_are_not_there_tell_of_nothing_and_damaged_ones_say_so(tmp_path: Path) -> None:
    assert read_earlier_runs(tmp_path, lambda run_id: True) == {}
    path = confirm_journal_path(tmp_path)
    path.parent.mkdir()
    path.write_text('{"event":"start","trial_id":"t0000-s1"}\n')
    with pytest.raises(InputError, match=r"confirm\.jsonl: record 1 is damaged"):
        read_earlier_runs(tmp_path, lambda run_id: True)


def test_what_was_filed_is_known_to_later_processes_of_the_same_mode(tmp_path: Path) -> None:
    filed = FiledRuns(tmp_path, "offline")
    for run_id in ("t0000", "t0001", "t0002"):
        filed.open(run_id)
    filed.finish("t0001", None)
    filed.finish("t0002", "abc")
    for later in (filed, FiledRuns(tmp_path, "offline")):
        assert [later.is_open(run_id) for run_id in ("t0000", "t0001", "t0002", "t9")] == [True] + 3 * [False]
        assert [later.is_whole(run_id) for run_id in ("t0000", "t0001", "t0002")] == [False, True, True]
        assert later.has_model("t0002", "abc")
        assert not later.has_model("t0002", "def")
        assert not later.has_model("t0001", "abc")
    filed.open("t0002")
    again = FiledRuns(tmp_path, "offline")
    assert again.is_open("t0002")
    assert not again.has_model("t0002", "abc"), "it is written anew"
    online = FiledRuns(tmp_path, "online")
    assert not online.is_open("t0000")
    assert not online.is_whole("t0001")
