"""`python -m hvqray.sweep SPACE.yaml`: search a space, with live progress, results on disk, and reports."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from hvqray.atomic import check_folder_can_be_made, expanded
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
from hvqray.quick_imports import collection_paused
from hvqray.steady_stderr import say_on_stderr

if TYPE_CHECKING:
    from hvqray.config.sweep_file import SweepFile

_HEAVY = ("torch", "hvqray.data.prepare", "sqlalchemy", "alembic.command", "pandas", "pyarrow.compute")
"""What the sweep needs before its first trial that is slow to import: done while Ray starts."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code. Raises InputError for what the user can mend."""
    parser = argument_parser("sweep", "Search the space in SPACE.yaml; results go to OUT/NAME.")
    parser.add_argument("space", metavar="SPACE.yaml", help="the sweep file")
    add_sweep_options(parser)
    add_cache_option(parser)
    add_cache_limit_option(parser)
    parser.add_argument(
        "--address",
        metavar="ADDR",
        help="Ray cluster to join, such as auto or HOST:6379 (default: $RAY_ADDRESS, else a local one)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, say what would run, and stop"
    )
    arguments = parser.parse_args(argv)

    # Imported late: --help and a misspelt option should answer at once.
    with collection_paused():
        from hvqray.config.overrides import origin_of
        from hvqray.config.sweep_file import load_sweep

    sweep = load_sweep(arguments.space, arguments.overrides, arguments.num_trials, arguments.data)
    with origin_of(arguments.space, arguments.overrides, arguments.data).found_later():
        return _search(sweep, arguments)


def _search(sweep: SweepFile, arguments: argparse.Namespace) -> int:
    """Check what the file alone does not tell, and run; returns the exit code."""
    with collection_paused():
        from hvqray.data.cache import chosen_cache_dir, parse_bytes
        from hvqray.results.steady_console import steady_console
        from hvqray.results.stored_trials import check_folder, is_begun
        from hvqray.results.wandb_mode import resolve_mode
        from hvqray.tuning.session_checks import check_before_ray

    limit = arguments.cache_limit
    limit_bytes = parse_bytes(limit, field="--cache-limit") if limit is not None else None
    out = Path(os.path.realpath(expanded(arguments.out)))  # Path.resolve fails at links in a circle
    cache_dir = chosen_cache_dir(arguments.cache_dir)
    folder, sweeps = out / sweep.name, [sweep]
    if arguments.per_class:
        from hvqray.tuning.per_class import class_sweeps, search_classes

        check_folder_can_be_made(folder, option="--out")  # whose files are looked at next
        sweeps, out = class_sweeps(sweep, folder, cache_dir=cache_dir), folder
    # Of sweeps of a class each, those that an earlier start did not come to begin now.
    resumed = [
        each.name
        for each in sweeps
        if arguments.resume and (not arguments.per_class or is_begun(out / each.name))
    ]
    if arguments.resume and not resumed:
        check_folder(out / sweeps[0].name, resume=True)
    for each in sweeps:
        check_before_ray(
            each,
            out / each.name,
            resume=each.name in resumed,
            time_budget_s=arguments.time_budget,
            wandb=arguments.wandb,
        )
    try:
        from hvqray.tuning.ray_runtime import ray_session

        with ExitStack() as joined:
            with collection_paused():
                session = ray_session(
                    arguments.address,
                    dashboard=sweep.resources.workers > 1,
                    importing=_HEAVY
                    if resolve_mode(arguments.wandb)[0] == "disabled"
                    else (*_HEAVY, "wandb"),
                )
                nodes = joined.enter_context(session)
                from hvqray.tuning.session import SweepOptions, SweepSession

            console = steady_console()

            def session_of(sweep: SweepFile, time_budget_s: float | None) -> SweepSession:
                options = SweepOptions(
                    out=out,
                    resume=sweep.name in resumed,
                    wandb=arguments.wandb,
                    time_budget_s=time_budget_s,
                    cache_dir=cache_dir,
                    cache_limit_bytes=limit_bytes,
                )
                return SweepSession(sweep, options, nodes, console)

            if arguments.dry_run:
                for each in sweeps:
                    session_of(each, arguments.time_budget).describe()
                return DONE
            if arguments.per_class:
                has_best = search_classes(
                    sweeps,
                    folder,
                    session_of=session_of,
                    time_budget_s=arguments.time_budget,
                    console=console,
                )
            else:
                has_best = session_of(sweep, arguments.time_budget).run()
            return DONE if has_best else FAILED
    except KeyboardInterrupt:
        left = any(is_begun(out / each.name) for each in sweeps)
        what = f"finished trials are in {folder}; go on with --resume" if left else "nothing had begun"
        say_on_stderr(f"hvqray: interrupted; {what}")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(run_command(main))
