"""`python -m hvqray.sweep SPACE.yaml`: search a space, with live progress, results on disk, and reports."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

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

if TYPE_CHECKING:
    from hvqray.config.sweep_file import SweepFile

_HEAVY = ("torch", "hvqray.data.prepare", "sqlalchemy", "pandas", "hvqray.results.html_report", "wandb")
"""What the sweep needs that is slow to import: done while Ray starts. Tune wants wandb, whether or not it is used."""


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
    from hvqray.config.overrides import origin_of
    from hvqray.config.sweep_file import load_sweep

    sweep = load_sweep(arguments.space, arguments.overrides, arguments.num_trials, arguments.data)
    with origin_of(arguments.space, arguments.overrides, arguments.data).found_later():
        return _search(sweep, arguments)


def _search(sweep: SweepFile, arguments: argparse.Namespace) -> int:
    """Check what the file alone does not tell, and run; returns the exit code."""
    from hvqray.data.cache import chosen_cache_dir, parse_bytes
    from hvqray.tuning.session_checks import check_before_ray

    limit = arguments.cache_limit
    limit_bytes = parse_bytes(limit, field="--cache-limit") if limit is not None else None
    out = Path(arguments.out).resolve()
    folder = out / sweep.name
    check_before_ray(
        sweep,
        folder,
        resume=arguments.resume,
        time_budget_s=arguments.time_budget,
        wandb=arguments.wandb,
    )
    try:
        from hvqray.tuning.ray_runtime import ray_session

        dashboard = sweep.resources.workers > 1
        with ray_session(arguments.address, dashboard=dashboard, importing=_HEAVY) as nodes:
            from hvqray.tuning.session import SweepOptions, SweepSession

            options = SweepOptions(
                out=out,
                resume=arguments.resume,
                wandb=arguments.wandb,
                time_budget_s=arguments.time_budget,
                cache_dir=chosen_cache_dir(arguments.cache_dir),
                cache_limit_bytes=limit_bytes,
            )
            session = SweepSession(sweep, options, nodes, Console(highlight=False))
            if arguments.dry_run:
                session.describe()
                return DONE
            return DONE if session.run() else FAILED
    except KeyboardInterrupt:
        begun = (folder / "sweep.yaml").exists()
        what = f"finished trials are in {folder}; go on with --resume" if begun else "nothing had begun"
        sys.stderr.write(f"hvqray: interrupted; {what}\n")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(run_command(main))
