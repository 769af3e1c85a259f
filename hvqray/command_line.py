"""What all commands share: exit codes, one-line errors, common options."""

from __future__ import annotations

import argparse
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, get_args

from hvqray.errors import InputError
from hvqray.full_disk import MENDS, refused_by_disk
from hvqray.steady_stderr import lead_nowhere, say_on_stderr

DONE = 0
FAILED = 1
INPUT_AT_FAULT = 2
INTERRUPTED = 130


def run_command(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run a command's `main`, turning what users can mend into one line on stderr and exit code 2, a full disk into one and 1."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a name that the terminal has no letters for is no failure
    code = DONE
    try:
        with warnings_on_stderr():
            code = main(argv)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where it can be told that it fails
        return code
    except InputError as error:
        print_error(str(error))
        return INPUT_AT_FAULT
    except KeyboardInterrupt:
        print_error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()  # its reader has left (`| head`)
        return code
    except Exception as error:
        if (refused := refused_by_disk(error)) is None:
            raise
        number, place = refused
        if place is None and _stdout_fails():
            place = "standard output"
            _abandon_stdout()
        reason = f"{os.strerror(number)}; {MENDS[number]}, or write to another place (--out, --cache-dir)"
        print_error(f"{place}: {reason}" if place else reason)
        return FAILED


def _stdout_fails() -> bool:
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _abandon_stdout() -> None:
    """What is left to write goes nowhere, so that the interpreter does not complain of it again at exit."""
    lead_nowhere(sys.stdout)


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """For the time of the block, show what this package warns of (an option without effect, say), one line each."""
    logger = logging.getLogger("hvqray")
    if logger.handlers:  # a command within a command
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("hvqray: warning: %(message)s"))
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def print_error(message: str) -> None:
    """One line on stderr, in the form that every command uses."""
    say_on_stderr(f"hvqray: error: {message}")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows every option's default, unless it is none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # By identity: 0 is a default to tell.
        if any(action.default is none for none in (None, False, argparse.SUPPRESS)) or action.default == []:
            return action.help
        return super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """Tells faults in the arguments in one line, as all other faults are told."""

    def error(self, message: str) -> NoReturn:
        print_error(f"{message}; see {self.prog} --help")
        sys.exit(INPUT_AT_FAULT)


def argument_parser(name: str, description: str) -> argparse.ArgumentParser:
    """The parser of `python -m hvqray.NAME`; faults in the arguments end with exit code 2."""
    return _Parser(
        prog=f"hvqray {name}", description=description, formatter_class=HelpFormatter, allow_abbrev=False
    )


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    """The options that `sweep` and `submit` have in common."""
    parser.add_argument(
        "--data",
        metavar="ROOT",
        help="folder of the dataset (default: data.root of the file, else the built-in synthetic set)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        default="runs",
        help="results go to DIR/NAME; every node of a cluster must see it",
    )
    add_set_option(parser)
    parser.add_argument(
        "--per-class",
        action="store_true",
        help="one model a class: the same search for each class by itself, in DIR/NAME/NAME-CLASS, with a joint report in DIR/NAME",
    )
    parser.add_argument(
        "--num-trials",
        metavar="N",
        type=positive_int,
        help="trials in all, with --per-class of each class; resumed ones included (default: run_cap of the file)",
    )
    parser.add_argument(
        "--time-budget",
        metavar="TIME",
        type=duration_s,
        help="stop after this time, such as 90m, 2h or 45s; a plain number is seconds (default: no limit)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the sweep in DIR/NAME")
    parser.add_argument(
        "--wandb",
        choices=["online", "offline", "disabled"],
        help="Weights & Biases (default: $WANDB_MODE, else online where a key is configured, else disabled)",
    )


def add_set_option(parser: argparse.ArgumentParser) -> None:
    """`--set`, for every command that reads a configuration; its values come as `overrides`."""
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        dest="overrides",
        action="append",
        default=[],
        help="override a field by its dotted path, such as train.epochs=4 (repeatable)",
    )


def add_cache_option(parser: argparse.ArgumentParser) -> None:
    """`--cache-dir`, for every command that reads features."""
    parser.add_argument(
        "--cache-dir",
        metavar="DIR",
        type=Path,
        help="feature cache (default: $HVQRAY_CACHE_DIR, else the user's cache folder)",
    )


def add_cache_limit_option(parser: argparse.ArgumentParser) -> None:
    """`--cache-limit`, for the commands that start a search."""
    parser.add_argument(
        "--cache-limit",
        metavar="SIZE",
        help="before the search, clear what was not used for longest from the cache until it takes at most SIZE, such as 20GB (default: no limit)",
    )


def add_layout_option(parser: argparse.ArgumentParser) -> None:
    """`--layout`, for commands that are given a dataset's folder."""
    # takes a moment that other commands' --help need not wait
    from hvqray.config.data_sections import LayoutName

    parser.add_argument(
        "--layout",
        choices=get_args(LayoutName),
        default="auto",
        help="how the dataset lies on disk, as data.layout of a sweep file; auto recognises it by what the folder holds",
    )


def positive_int(text: str) -> int:
    """A whole number of at least 1; argparse turns the error into one line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def duration_s(text: str) -> float:
    """Seconds of `90m`, `1.5h`, `45s`, `1h30m` or a plain number of seconds."""
    unit_s = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0}
    if not re.fullmatch(r"(\d+(\.\d+)?[dhms])+|\d+(\.\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write 90m, 2h, 45s or 1h30m")
    seconds = sum(
        float(number) * unit_s[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)([dhms]?)", text)
    )
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time at all; write 90m, 2h, 45s or 1h30m")
    return seconds
