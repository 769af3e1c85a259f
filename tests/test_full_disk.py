"""What is, and what is not, a disk that takes no more; how commands tell of it: tests/test_command_line.py."""

from __future__ import annotations

import errno
import shutil

import pytest

from hvqray.full_disk import MENDS, refused_by_disk


class FromAnotherProcess(Exception):
    """As Ray raises it."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("see cause")
        self.cause = cause


@pytest.mark.parametrize("number", MENDS)
def test_the_number_and_the_file_are_told(number: int) -> None:
    assert refused_by_disk(OSError(number, "", "last.pt")) == (number, "last.pt")
    assert refused_by_disk(OSError(number, "", b"last.pt")) == (number, "last.pt")
    assert refused_by_disk(OSError(number, "")) == (number, None)


def test_it_is_found_behind_other_errors() -> None:
    full = OSError(errno.ENOSPC, "", "last.pt")
    caused, while_handled = RuntimeError("cannot be written"), RuntimeError("Traceback: ...")
    caused.__cause__ = full
    while_handled.__context__ = caused
    for error in (FromAnotherProcess(full), caused, while_handled, FromAnotherProcess(while_handled)):
        assert refused_by_disk(error) == (errno.ENOSPC, "last.pt")


def test_of_a_folder_that_was_copied_it_is_read_from_the_words() -> None:
    copied = shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")])
    assert refused_by_disk(copied) == (errno.ENOSPC, "b")


@pytest.mark.parametrize(
    "error",
    [None, ValueError("full"), OSError(errno.EACCES, "", "x"), shutil.Error([("a", "b", "[Errno 13] no")])],
    ids=repr,
)
def test_nothing_else_is_one(error: BaseException | None) -> None:
    assert refused_by_disk(error) is None
