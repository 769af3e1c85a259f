from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hvqray.errors import InputError
from hvqray.results.journal import Journal, numbered_records, read_records


def test_records_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "state" / "journal.jsonl"
    journal = Journal(path)
    journal.append({"a": 1, "text": "Größe\nzwei"})
    journal.append({"a": np.float32(0.5), "list": np.array([1, 2])})
    assert list(read_records(path)) == [{"a": 1, "text": "Größe\nzwei"}, {"a": 0.5, "list": [1, 2]}]
    journal.close()


@pytest.mark.parametrize("torn", [b'{"a": 3', b"\xff\xfe", b"x" * 200_000])
def test_a_torn_last_line_is_passed_over_and_cut(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":2}\n' + torn)
    assert list(read_records(path)) == [{"a": 1}, {"a": 2}]
    journal = Journal(path)
    journal.append({"a": 3})
    journal.close()
    assert path.read_bytes() == b'{"a":1}\n{"a":2}\n{"a":3}\n'


def test_a_journal_of_nothing_but_a_torn_line_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"a"')
    assert list(read_records(path)) == []
    Journal(path).close()
    assert path.read_bytes() == b""


def test_events_that_nobody_wants_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for record in ({"event": "start"}, {"event": "epoch", "loss": 1}, {"event": "end", "of": "epoch"}):
        journal.append(record)
    journal.close()
    kept = [(1, {"event": "start"}), (3, {"event": "end", "of": "epoch"})]
    assert list(numbered_records(path, but="epoch")) == kept
    assert len(list(numbered_records(path))) == 3


def test_damage_elsewhere_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"a":1}\nnonsense\n{"a":2}\n')
    with pytest.raises(InputError, match=r"journal\.jsonl: line 2 is damaged"):
        list(read_records(path))


def test_what_json_does_not_know_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(TypeError, match="Path"):
        journal.append({"a": tmp_path})
    journal.close()
