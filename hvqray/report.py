"""`python -m hvqray.report SWEEP_DIR`: build the reports of a sweep anew from its folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from hvqray.command_line import DONE, argument_parser, run_command
from hvqray.errors import InputError
from hvqray.results.html_report import build_html_report
from hvqray.results.joint_report import report_jointly
from hvqray.results.stored_trials import class_sweep_folders
from hvqray.results.wandb_mode import resolve_mode


def main(argv: Sequence[str] | None = None) -> int:
    """Build report.html, and the W&B report if asked for; prints where each lies."""
    parser = argument_parser("report", "Build report.html of a sweep anew, and with --wandb its W&B report.")
    parser.add_argument(
        "folder",
        metavar="SWEEP_DIR",
        type=Path,
        help="a sweep's folder, OUT/NAME; or a folder of sweeps of one class each, for what they come to together",
    )
    parser.add_argument(
        "--wandb",
        action="store_true",
        help="also build the W&B report: online where a key is configured, else as SWEEP_DIR/wandb-report.json",
    )
    parser.add_argument(
        "--entity",
        metavar="NAME",
        help="W&B user or team (default: entity of sweep.yaml, else the key's own)",
    )
    parser.add_argument("--project", metavar="NAME", help="W&B project (default: project of sweep.yaml)")
    arguments = parser.parse_args(argv)
    if not arguments.wandb and (arguments.entity or arguments.project):
        raise InputError("--entity and --project belong to --wandb; add it, or leave them out")
    if not arguments.folder.is_dir():
        raise InputError("is no folder; give the folder of a sweep, OUT/NAME", source=str(arguments.folder))
    if class_sweep_folders(arguments.folder):
        if arguments.wandb:
            raise InputError("--wandb takes one sweep, and this is a folder of several; give one of them")
        console = Console(highlight=False, markup=False, emoji=False)
        sys.stdout.write(f"{report_jointly(console, arguments.folder)}\n")
        return DONE
    sys.stdout.write(f"{build_html_report(arguments.folder)}\n")
    if arguments.wandb:
        # wandb takes a second to import, which the plain report does not need.
        from hvqray.results.wandb_report import build_wandb_report

        online = resolve_mode(None)[0] == "online"
        out = None if online else arguments.folder / "wandb-report.json"
        place = build_wandb_report(
            arguments.folder, entity=arguments.entity, project=arguments.project, out=out
        )
        remark = (
            ""
            if online
            else " (W&B report as a file, which names no entity or project: no key is configured, or W&B is not online)"
        )
        sys.stdout.write(f"{place}{remark}\n")
    return DONE


if __name__ == "__main__":
    sys.exit(run_command(main))
