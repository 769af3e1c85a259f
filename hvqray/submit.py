"""`python -m hvqray.submit SPACE.yaml --address URL`: the same sweep, as a job on a Ray cluster.

The space file travels in a small folder; `hvqray.sweep` runs on the cluster and attaches to it by the `RAY_ADDRESS`
that Ray sets for jobs. The job's log goes to stdout, what this command itself says to stderr.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import hvqray
from hvqray.command_line import (
    DONE,
    FAILED,
    INTERRUPTED,
    add_cache_limit_option,
    add_cache_option,
    add_sweep_options,
    argument_parser,
    run_command,
)
from hvqray.config.overrides import origin_of, override_text
from hvqray.config.run_config import WEIGHTS
from hvqray.config.sweep_file import SweepFile, load_sweep
from hvqray.data.cache import parse_bytes
from hvqray.errors import InputError
from hvqray.tuning import ray_job

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
SECOND_INTERRUPT_S = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Submit and follow; returns the sweep's exit code."""
    options = _parser().parse_args(argv)
    address, source = resolve_address(options.address, os.environ)
    sweep = load_sweep(options.space, options.overrides, options.num_trials, options.data)
    with origin_of(options.space, options.overrides, options.data).found_later():
        _check(sweep, options.time_budget)
    if options.cache_limit is not None:
        parse_bytes(options.cache_limit, field="--cache-limit")  # a fault in it is told here, not in the job
    # The job has no terminal; its tables shall fit the one where its log is read.
    env_vars = {"COLUMNS": str(shutil.get_terminal_size((120, 24)).columns)}
    env_vars |= dict(environment_entry(entry, os.environ) for entry in options.env)
    arguments = sweep_arguments(options, sweep)
    client = ray_job.connect(address)
    with tempfile.TemporaryDirectory(prefix="hvqray-submit-") as folder:
        pack(Path(folder), options.space, ship_code=options.ship_code)
        job_id = ray_job.submit(
            client,
            ["python", "-m", "hvqray.sweep", *arguments],
            working_dir=Path(folder),
            env_vars=env_vars,
            submission_id=options.submission_id,
        )
    _say(f"job {job_id} at {address} (from {source})")
    if options.no_follow:
        _say(_how_to_go_on(address, job_id))
        return DONE
    return follow_or_leave(client, address, job_id)


def _check(sweep: SweepFile, time_budget_s: float | None) -> None:
    """Raise InputError for what the job would refuse at once, as far as the file alone tells it."""
    from hvqray.tuning.session_checks import (
        check_method,
        trials_in_all,
    )  # Optuna, which --help need not wait for

    trials_in_all(sweep, time_budget_s)
    check_method(sweep)


def resolve_address(address: str | None, environ: Mapping[str, str]) -> tuple[str, str]:
    """The dashboard's URL and what named it: `--address`, else `RAY_API_SERVER_ADDRESS`, else `RAY_ADDRESS`.

    Raises:
        InputError: nothing names one, or what is named is no http(s) URL.
    """
    named = {"--address": address, **{name: environ.get(name) for name in ADDRESS_VARIABLES}}
    source = next((source for source, url in named.items() if url), None)
    if source is None:
        raise InputError("missing; give the cluster's dashboard, such as http://HOST:8265", field="--address")
    url = (named[source] or "").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"{url!r} is not the URL of a dashboard; give --address http://HOST:8265", field=source
        )
    return url, source


def environment_entry(entry: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Name and value of `--env KEY=VALUE`, or of `--env KEY`, whose value is taken from `environ`.

    Raises:
        InputError: not a variable's name, or not set here. The message never shows a value.
    """
    name, equals, value = entry.partition("=")
    if not re.fullmatch(r"[A-Za-z_]\w*", name, flags=re.ASCII):
        raise InputError(f"{name!r} is not a variable's name; write KEY=VALUE or KEY", field="--env")
    if not equals and name not in environ:
        raise InputError(f"{name} is not set here; set it, or write {name}=VALUE", field="--env")
    return name, value if equals else environ[name]


def sweep_arguments(options: argparse.Namespace, sweep: SweepFile) -> list[str]:
    """What `hvqray.sweep` is called with in the job: it runs in another folder, so every path becomes absolute."""
    arguments = [options.space.name, "--out", _absolute(options.out, "--out")]
    if root := sweep.data.get("root"):  # absolute, as is every file of weights in a checked sweep
        _say(f"data.root is {root} on the cluster")
        arguments += ["--data", root]
    if options.cache_dir is not None:
        arguments += ["--cache-dir", _absolute(str(options.cache_dir), "--cache-dir")]
    if options.cache_limit is not None:
        arguments += ["--cache-limit", options.cache_limit]
    for override in options.overrides:
        arguments += ["--set", override]
    weights = sweep.data.get("backbone", {}).get("weights", "")
    if Path(weights).is_absolute():  # a file, not one of the names that `weights` knows
        _say(f"{WEIGHTS} is {weights} on the cluster")
        arguments += ["--set", override_text(WEIGHTS, weights)]
    for name, parameter in sweep.parameters.items():
        if name == WEIGHTS or WEIGHTS in parameter.when:
            searched = parameter.model_dump(exclude_unset=True)
            arguments += ["--set", override_text(f"parameters.{name}", searched)]
    for name in ("num_trials", "time_budget", "wandb"):
        if (value := getattr(options, name)) is not None:
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    for name in ("per_class", "resume"):
        if getattr(options, name):
            arguments.append(f"--{name.replace('_', '-')}")
    return arguments


def pack(folder: Path, space: Path, *, ship_code: bool) -> None:
    """Put into `folder` what the job needs from here: the space file and, where asked, this very hvqray."""
    shutil.copy(space, folder)
    if ship_code:
        package = Path(hvqray.__file__).parent
        shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))


def follow_or_leave(client: JobSubmissionClient, address: str, job_id: str) -> int:
    """Follow the job's log on stdout until it ends; returns its exit code.

    Ctrl-C leaves the job running, a second one within 2 s stops it; the exit code is 130 either way.
    """
    try:
        return exit_code(ray_job.follow(client, job_id, _write_out))
    except ray_job.LostClusterError as error:
        _say(f"{error}; {_how_to_go_on(address, job_id)}")
        return FAILED
    except KeyboardInterrupt:
        _say(
            f"the job runs on; Ctrl-C again within {SECOND_INTERRUPT_S:g} s stops it. {_how_to_go_on(address, job_id)}"
        )
    try:
        time.sleep(SECOND_INTERRUPT_S)
    except KeyboardInterrupt:
        _say("stopping the job")
        ray_job.stop(client, job_id)
        _say("stopped; the same command with --resume goes on")
    return INTERRUPTED


def exit_code(details: JobDetails) -> int:
    """The sweep's own exit code; 130 where the job was stopped, 1 where it was killed or never started.

    Raises:
        InputError: the cluster has no hvqray, or no `python`.
    """
    code, message = details.driver_exit_code, details.message or ""
    if details.status == "STOPPED" or code == -signal.SIGINT:
        return INTERRUPTED
    if code is None:
        _say(f"the job did not run: {message}")
        return FAILED
    if code == 127:
        raise InputError("no `python` on the cluster's PATH; activate the environment before `ray start`")
    if code and re.search(r"No module named '?hvqray\b", message):
        raise InputError(
            "the cluster's Python has no hvqray; install it there, or send this one with --ship-code"
        )
    if code < 0 or code > INTERRUPTED:  # a signal ended it; a shell says so as 128 + signal
        _say(f"signal {-code if code < 0 else code - 128} ended the sweep's process on the cluster")
        return FAILED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argument_parser(
        "submit",
        "Run a sweep as a job on a Ray cluster, follow its log, and end with its exit code."
        " Paths are the cluster's; a relative one is made absolute from here, and ~ is your home here.",
    )
    parser.add_argument("space", metavar="SPACE.yaml", type=Path, help="the sweep file")
    parser.add_argument(
        "--address",
        metavar="URL",
        help="the cluster's dashboard, http://HOST:8265 (default: $RAY_API_SERVER_ADDRESS, else $RAY_ADDRESS)",
    )
    add_sweep_options(parser)
    add_cache_option(parser)
    add_cache_limit_option(parser)
    parser.add_argument(
        "--no-follow", action="store_true", help="submit only; exit code 0 then means submitted"
    )
    parser.add_argument(
        "--submission-id", metavar="ID", help="the job's id on the cluster (default: made by Ray)"
    )
    parser.add_argument(
        "--env",
        metavar="KEY[=VALUE]",
        action="append",
        default=[],
        help="environment variable of the job; without =VALUE it is taken from here, such as WANDB_API_KEY (repeatable)",
    )
    parser.add_argument(
        "--ship-code",
        action="store_true",
        help="send this hvqray package along; its dependencies must be on the cluster",
    )
    return parser


def _absolute(path: str, option: str) -> str:
    absolute = os.path.abspath(os.path.expanduser(path))
    if absolute != path:
        _say(f"{option} {path} is {absolute} on the cluster")
    return absolute


def _how_to_go_on(address: str, job_id: str) -> str:
    return (
        f"follow it: ray job logs --address {address} --follow {job_id}; "
        f"stop it: ray job stop --address {address} {job_id}"
    )


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _write_out(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(run_command(main))
