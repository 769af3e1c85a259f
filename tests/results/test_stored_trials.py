from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_sweep import play

from hvqray.environment import code_version
from hvqray.errors import InputError
from hvqray.results.store import SweepStore
from hvqray.results.stored_trials import journal_path, read_epochs, read_info, read_trials


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sweep"


def test_reading_without_the_state_folder_gives_the_same(folder: Path) -> None:
    store = SweepStore(folder, resume=False, selected_on_test=False)
    for number in range(3):
        play(store, number)
    store.close()
    trials, epochs, info = read_trials(folder), read_epochs(folder, "t0002"), read_info(folder)
    shutil.rmtree(folder / ".state")
    assert read_trials(folder) == trials
    assert read_epochs(folder, "t0002") == epochs
    assert read_info(folder) == info
    assert info.environment["code_version"] == code_version()


@pytest.mark.parametrize("begun", ["", '{"event": "ope'])
def test_a_journal_without_a_whole_record_is_no_sweep(folder: Path, begun: str) -> None:
    """A start that was killed between making its journal and the first record."""
    journal_path(folder).parent.mkdir(parents=True)
    journal_path(folder).write_text(begun)
    with pytest.raises(InputError, match="holds no sweep to resume; leave out --resume"):
        SweepStore(folder, resume=True, selected_on_test=False)
    for resume in (False, True):
        SweepStore(folder, resume=resume, selected_on_test=False).close()
    assert read_info(folder).uid


@pytest.mark.parametrize("name", ["trials.parquet", "metrics.parquet"])
@pytest.mark.parametrize("flaw", ["truncated", "foreign"])
def test_damaged_tables_are_told(folder: Path, name: str, flaw: str) -> None:
    store = SweepStore(folder, resume=False, selected_on_test=False)
    play(store, 0)
    store.close()
    shutil.rmtree(folder / ".state")
    if flaw == "truncated":
        (folder / name).write_bytes((folder / name).read_bytes()[:-100])
    else:
        pq.write_table(pa.table({"a": [1]}), folder / name)
    with pytest.raises(InputError, match=rf"{name}: is damaged \(.*\); restore it from a copy"):
        read_trials(folder) if name.startswith("trials") else read_epochs(folder, "t0000")


def test_a_damaged_record_is_told(folder: Path) -> None:
    SweepStore(folder, resume=False, selected_on_test=False).close()
    for record in ('{"event": "end"}', "[]", '{"kind": 1}'):
        whole = journal_path(folder).read_text()
        journal_path(folder).write_text(f"{whole}{record}\n")
        with pytest.raises(InputError, match=r"journal\.jsonl: record 2 is damaged"):
            read_trials(folder)
        journal_path(folder).write_text(whole)
