"""What all commands share: exit codes, one line for a fault, times."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from full_disk import files_of_at_most

from hvqray.__main__ import COMMANDS
from hvqray.__main__ import main as hvqray
from hvqray.command_line import (
    add_sweep_options,
    argument_parser,
    duration_s,
    positive_int,
    run_command,
)
from hvqray.errors import InputError


def raising(error: BaseException) -> int:
    def main(argv: Sequence[str] | None) -> int:
        raise error

    return run_command(main, [])


def test_the_exit_code_is_the_command_s() -> None:
    assert [run_command(lambda argv, code=code: code, []) for code in (0, 1)] == [0, 1]


def test_an_input_error_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(InputError("no\nsuch   key", source="space.yaml", field="train.lr")) == 2
    assert capsys.readouterr().err == "hvqray: error: space.yaml: train.lr: no such key\n"


def test_ctrl_c_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "hvqray: error: interrupted\n"


def test_an_internal_error_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError())


def test_warnings_of_the_package_are_shown_once_and_only_by_commands(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def main(argv: Sequence[str] | None) -> int:
        logging.getLogger("hvqray.config").warning("has no effect")
        return 0

    for _ in range(2):
        run_command(lambda argv: run_command(main, argv), [])
        assert capsys.readouterr().err == "hvqray: warning: has no effect\n"
    assert not caplog.records
    main([])
    assert [record.getMessage() for record in caplog.records] == ["has no effect"]


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    program = (
        "import sys\n"
        "from hvqray.command_line import run_command\n"
        "sys.exit(run_command(lambda argv: [print('x' * 100) for _ in range(100000)] and 0))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == 0


def run_program(main: str, stdout: int | None, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    """`main` is an expression: the command's exit code."""
    program = (
        f"import sys; from hvqray.command_line import run_command; sys.exit(run_command(lambda argv: {main}))"
    )
    environment = {**os.environ, "PYTHONUNBUFFERED": "", "PYTHONIOENCODING": encoding}
    return subprocess.run(
        [sys.executable, "-c", program],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=environment,
    )


@pytest.mark.parametrize("flush", [True, False], ids=["at once", "at the end"])
def test_an_output_that_takes_no_more_is_told_in_one_line(flush: bool) -> None:
    with open("/dev/full", "wb") as full:
        ended = run_program(f"print('result', flush={flush}) or 0", full.fileno())
    assert ended.stderr == (
        "hvqray: error: standard output: No space left on device; free space, or write to another place (--out, --cache-dir)\n"
    )
    assert ended.returncode == 1


def test_a_reader_that_has_left_at_the_end_changes_no_exit_code() -> None:
    read, write = os.pipe()
    os.close(read)
    ended = run_program("print('result') or 2", write)
    os.close(write)
    assert (ended.stderr, ended.returncode) == ("", 2)


def test_a_character_that_the_output_does_not_know_is_no_failure(tmp_path: Path) -> None:
    with (tmp_path / "out.txt").open("wb") as file:
        ended = run_program(
            "print('M\\xfcller \\udce9', file=sys.stdout) or 0", file.fileno(), "ascii:strict"
        )
    assert (ended.stderr, ended.returncode) == ("", 0)
    assert (tmp_path / "out.txt").read_text() == "M\\xfcller \\udce9\n"


def test_no_output_is_no_fault() -> None:
    ended = run_program("setattr(sys, 'stdout', None) or 2", None)  # what the interpreter sets for `>&-`
    assert (ended.stderr, ended.returncode) == ("", 2)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "No space left on device; free space, or"),
        (errno.EDQUOT, "Disk quota exceeded; free space, or have the quota raised, or"),
        (errno.EFBIG, "File too large; raise the limit of a file's size (ulimit -f), or"),
        (errno.EROFS, "Read-only file system; make it writable, or"),
    ],
)
def test_a_disk_that_takes_no_more_is_told_in_one_line(
    number: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, place in (("out/scores.csv", "out/scores.csv: "), (None, "")):
        assert raising(OSError(number, "whatever a library says", name)) == 1
        assert (
            capsys.readouterr().err
            == f"hvqray: error: {place}{told} write to another place (--out, --cache-dir)\n"
        )


def test_a_disk_that_grows_full_while_a_folder_is_copied_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "from").mkdir()
    for name in "ab":
        (tmp_path / "from" / name).write_bytes(bytes(1000))
    with files_of_at_most(100), pytest.raises(shutil.Error) as raised:
        # never by a copy within the system's kernel, which sees no limit on files
        shutil.copytree(tmp_path / "from", tmp_path / "to", copy_function=_copy_by_hand)
    assert raising(raised.value) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"hvqray: error: {tmp_path}/to/")
    assert "File too large; raise the limit" in told
    assert told.count("\n") == 1


def _copy_by_hand(source: str, target: str) -> None:
    Path(target).write_bytes(Path(source).read_bytes())


def test_a_full_disk_is_told_from_another_process_and_from_the_study_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class TaskError(Exception):  # as Ray raises it
        def __init__(self, cause: Exception) -> None:
            self.cause = cause

    class StorageError(Exception):  # as Optuna raises it
        pass

    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorname = "SQLITE_FULL"
    storage = StorageError()
    storage.__cause__ = full
    for error in (TaskError(OSError(errno.ENOSPC, "", "cache/images")), storage):
        assert raising(error) == 1
        assert "No space left on device; free space" in capsys.readouterr().err


def test_a_full_disk_is_told_from_an_error_that_was_raised_while_it_was_handled(
    capsys: pytest.CaptureFixture[str],
) -> None:
    raised = RuntimeError("Traceback: ...")  # by Ray Tune, which names no cause
    raised.__context__ = OSError(errno.ENOSPC, "", "study.db")
    assert raising(raised) == 1
    assert "hvqray: error: study.db: No space left on device; free space" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        OSError("no number"),
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        PermissionError(errno.EACCES, "Permission denied", "x"),
        OSError(errno.EIO, "Input/output error", "x"),
        RuntimeError("No space left on device"),
        shutil.Error("Destination path 'x' already exists"),
        shutil.Error([("a", "b", "[Errno 13] Permission denied: 'a'")]),
        sqlite3.OperationalError("no such table"),
    ],
    ids=repr,
)
def test_other_errors_are_not_taken_for_a_full_disk(error: Exception) -> None:
    with pytest.raises(type(error)):
        raising(error)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90m", 5400), ("1.5h", 5400), ("45s", 45), ("1h30m", 5400), ("2d", 172800), ("12", 12), ("0.5", 0.5)],
)
def test_times(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "90 m", "m", "-5m", "0s", "1h30", "1e3"])
def test_what_is_no_time(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_fault(f"--time-budget={text}", capsys).startswith(
        f"hvqray: error: argument --time-budget: {text!r} is no"
    )


@pytest.mark.parametrize("text", ["0", "-1", "3.0", "many", ""])
def test_what_is_no_number_of_trials(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not a whole number of at least 1" in parse_fault(f"--num-trials={text}", capsys)


def test_a_number_of_trials() -> None:
    assert positive_int("12") == 12


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--resum", "unrecognized arguments: --resum"),
        ("--wandb=onlin", "argument --wandb: invalid choice: 'onlin'"),
        ("--set", "argument --set: expected one argument"),
    ],
)
def test_a_fault_in_the_options_is_one_line(
    option: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = parse_fault(option, capsys)
    assert told in line
    assert line.endswith("; see hvqray sweep --help")


def parse_fault(option: str, capsys: pytest.CaptureFixture[str]) -> str:
    parser = argument_parser("sweep", "Search.")
    add_sweep_options(parser)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([option])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_help_shows_defaults_where_there_are_any() -> None:
    parser = argument_parser("sweep", "Search.")
    add_sweep_options(parser)
    text = " ".join(parser.format_help().split())
    assert "every node of a cluster must see it (default: runs)" in text
    assert "(default: None)" not in text
    assert "(default: [])" not in text
    assert "(default: False)" not in text


def parsers(command: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[argparse.ArgumentParser]:
    """The parser of a command, or those of its subcommands."""

    class Built(Exception):
        pass

    def stop(parser: argparse.ArgumentParser, argv: object = None) -> None:
        raise Built(parser)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Built) as caught:
        hvqray([command])
    (parser,) = caught.value.args
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    yield from groups[0].choices.values() if groups else [parser]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option_with_its_default(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for parser in parsers(command, monkeypatch):
        formatter = parser._get_formatter()
        for action in parser._actions:
            text = formatter._expand_help(action)
            what = f"{parser.prog} {'/'.join(action.option_strings) or action.dest}: {text}"
            assert len(text) > 10, what
            takes_value = action.option_strings and action.nargs != 0
            if takes_value and not action.required and "(repeatable)" not in text:
                assert "(default: " in text, what
            if isinstance(action.default, int | float) and not isinstance(action.default, bool):
                assert f"(default: {action.default})" in text, what
            assert not (action.type is duration_s and "seconds" not in text), what


def test_the_synthetic_set_has_no_use_for_a_cache(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        hvqray(["data", "synth", "--out", "x", "--cache-dir", "y"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --cache-dir" in capsys.readouterr().err
