"""What a store keeps of trials that have ended."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
from fake_sweep import NUM_EPOCHS, metrics_of, play

from hvqray.results.store import SweepStore
from hvqray.results.stored_trials import read_all_epochs
from hvqray.training.epoch_report import EpochReport


def test_the_reports_of_a_trial_that_has_ended_are_kept_as_one_table(tmp_path: Path) -> None:
    with closing(SweepStore(tmp_path, resume=False, selected_on_test=False)) as store:
        for number in range(3):
            play(store, number)
        store.write_tables()
        assert not any(store._history.epochs.values())
        assert not store._epoch_tables
        before = pq.read_table(tmp_path / "metrics.parquet")
        store.write_tables()
        assert pq.read_table(tmp_path / "metrics.parquet").equals(before)
    assert {trial_id: len(epochs) for trial_id, epochs in read_all_epochs(tmp_path).items()} == {
        trial_id: len(set(rows["epoch"]))
        for trial_id, rows in before.to_pandas().groupby("trial_id", sort=False)
    }


def test_a_trial_that_goes_on_after_its_end_keeps_its_earlier_reports(tmp_path: Path) -> None:
    with closing(SweepStore(tmp_path, resume=False, selected_on_test=False)) as store:
        for number in range(2):
            play(store, number)
        store.write_tables()
        for epoch in (NUM_EPOCHS, NUM_EPOCHS + 1):  # the first one once more, and another
            store.on_epoch("t0000", EpochReport(epoch, NUM_EPOCHS + 1, metrics_of(0.5, seed=9), 1.0))
    told = read_all_epochs(tmp_path)
    table = pq.read_table(tmp_path / "metrics.parquet").to_pandas()
    assert list(dict.fromkeys(table["trial_id"])) == list(told)
    assert sorted(told["t0000"]) == sorted(set(table[table.trial_id == "t0000"]["epoch"]))
    values = table[(table.trial_id == "t0000") & (table.epoch == NUM_EPOCHS)]["value"]
    assert len(values) == len(told["t0000"][NUM_EPOCHS])
    assert sorted(values.dropna()) == sorted(
        value for value in told["t0000"][NUM_EPOCHS].values() if value is not None
    )
    (tmp_path / ".state" / "journal.jsonl").unlink()
    assert read_all_epochs(tmp_path) == told
