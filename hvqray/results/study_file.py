"""`study.db` before Optuna opens it, which would make an empty one whole and fails on a damaged one by errors of its own."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from hvqray.errors import InputError

_BUSY_S = 30.0
"""How long a running sweep may hold the file."""


def count_studies(path: Path, *, mend: str) -> int:
    """How many studies `path` holds; 0 where it is an empty file or an empty database.

    Raises:
        InputError: It is no database, or a damaged one; `mend` ends the message.
    """
    # Not read-only: a driver that was killed may have left a transaction that has to be taken back first.
    address = f"{path.resolve().as_uri()}?mode=rw"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=_BUSY_S)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found == "ok":
                (has_table,) = connection.execute(
                    "SELECT COUNT(*) FROM sqlite_master WHERE name = 'studies'"
                ).fetchone()
                return connection.execute("SELECT COUNT(*) FROM studies").fetchone()[0] if has_table else 0
    except sqlite3.DatabaseError as error:
        found = error
    raise InputError(f"cannot be read ({found}); {mend}", source=str(path))
