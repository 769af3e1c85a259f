"""The console script `hvqray COMMAND ...`; each command is also `python -m hvqray.COMMAND`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from hvqray import __version__
from hvqray.command_line import INPUT_AT_FAULT, print_error, run_command
from hvqray.errors import did_you_mean

COMMANDS = {
    "sweep": "search a space: train many configurations, results per class on disk, reports",
    "train": "one run of one configuration, or a sweep's trial again",
    "evaluate": "all metrics per class of a saved model",
    "baseline": "PaDiM and PatchCore on the same data, beside a sweep's best model or by themselves",
    "predict": "score, label and anomaly map of images",
    "export": "a deployable file of a saved model",
    "convert": "a checkpoint of the published HVQ-Trans code as one of hvqray",
    "report": "(re)build a sweep's HTML or W&B report",
    "submit": "the same sweep as a job on a Ray cluster",
    "data": "describe, check, cache a dataset, or write the synthetic one",
}


def usage() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(["usage: hvqray COMMAND ... (hvqray COMMAND --help explains one)", "", *lines])


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to a command; imports only that command's module."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage() + "\n")
        return 0 if arguments else INPUT_AT_FAULT
    name, *rest = arguments
    if name == "--version":
        sys.stdout.write(f"hvqray {__version__}\n")
        return 0
    if name not in COMMANDS:
        print_error(f"{name}: unknown command{did_you_mean(name, COMMANDS)}")
        return INPUT_AT_FAULT
    module = importlib.import_module("hvqray.data.commands" if name == "data" else f"hvqray.{name}")
    return run_command(module.main, rest)


if __name__ == "__main__":
    sys.exit(main())
