"""`python -m hvqray.data describe|check|cache|synth`: look at a dataset, find its faults, fill the cache."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from hvqray.atomic import expanded, make_folder
from hvqray.command_line import DONE, INPUT_AT_FAULT, argument_parser, run_command
from hvqray.config.data_sections import BitDepth, DataConfig
from hvqray.data import cache_command
from hvqray.data.bit_depth import Largest, largest_of, remarks
from hvqray.data.check import check_dataset
from hvqray.data.command_options import (
    add_bit_depth_option,
    add_dataset_options,
    cache_dir_of,
    data_config,
    print_table,
)
from hvqray.data.dataset import Dataset
from hvqray.data.describe import NUM_DECODED, describe_dataset
from hvqray.data.prepare import open_dataset
from hvqray.data.progress import progress_bar
from hvqray.data.synthetic import write_synthetic
from hvqray.errors import InputError, counted

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the arguments and returns the exit code: 0 done, 2 the data or the arguments are at fault."""
    return run_command(_main, argv)


def _main(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    return command(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argument_parser("data", "Look at a dataset, find its faults, fill the feature cache.")
    commands = parser.add_subparsers(required=True, metavar="describe|check|cache|synth")

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=text, formatter_class=parser.formatter_class, allow_abbrev=False
        )
        sub.set_defaults(command=command)
        return sub

    for name, command, text in (
        ("describe", _describe, "Show classes, counts, masks, sizes and modes."),
        ("check", _check, "Name every fault, one line each; exit code 2 where there are any."),
    ):
        sub = add(name, command, text)
        sub.add_argument(
            "root", nargs="?", metavar="ROOT", help="folder of the dataset (default: the synthetic set)"
        )
        add_dataset_options(sub)
        if command is _check:
            add_bit_depth_option(sub)

    text = "Fill the feature cache for a dataset, or list or clear it."
    cache_command.add_options(add("cache", cache_command.run, text))

    sub = add("synth", _synth, "Write the built-in synthetic set as PNG files.")
    sub.add_argument("--out", required=True, metavar="DIR", help="new folder to write")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the images")
    return parser


def _describe(arguments: argparse.Namespace) -> int:
    table, largest = describe_dataset(_dataset(_dataset_config(arguments), arguments))
    print_table(table)
    _tell_of_16_bits(largest, among=f"at most {NUM_DECODED} a class")
    return DONE


def _check(arguments: argparse.Namespace) -> int:
    config = _dataset_config(arguments, bit_depth=arguments.bit_depth)
    dataset = _dataset(config, arguments)
    with progress_bar() as progress:
        found = check_dataset(dataset, bit_depth=config.bit_depth, progress=progress)
    for fault in found.faults:
        sys.stdout.write(f"{fault}\n")
    images = f"{counted(len(dataset.samples), 'image')} of {counted(len(dataset.class_names), 'class')}"
    sys.stdout.write(f"{images}: {counted(len(found.faults), 'fault')}\n")
    for line in found.remarks:
        logger.warning(line)
    _tell_of_16_bits(found.largest, among="all", bit_depth=config.bit_depth)
    return INPUT_AT_FAULT if found.faults else DONE


def _tell_of_16_bits(
    largest_of_class: dict[str, Largest], *, among: str, bit_depth: BitDepth | None = None
) -> None:
    if largest := largest_of(largest_of_class.values()):
        values = ", ".join(f"{value} ({kind})" for kind, value in sorted(largest.items()))
        sys.stdout.write(f"16-bit images: largest value {values}, of {among}\n")
    for line in remarks(largest_of_class, bit_depth):
        logger.warning(line)


def _synth(arguments: argparse.Namespace) -> int:
    folder = expanded(arguments.out).absolute()
    if folder.exists():
        raise InputError(f"{folder} exists already; name a new folder", field="--out")
    if arguments.seed < 0:
        raise InputError(f"{arguments.seed} is negative; give 0 or more", field="--seed")
    make_folder(folder.parent, option="--out")
    with progress_bar() as progress:
        write_synthetic(folder, arguments.seed, progress=progress)
    sys.stdout.write(f"{folder}\n")
    return DONE


def _dataset_config(arguments: argparse.Namespace, *, bit_depth: int | None = None) -> DataConfig:
    fields = {"layout": arguments.layout, "classes": arguments.classes, "bit_depth": bit_depth}
    return data_config(arguments.root, fields)


def _dataset(config: DataConfig, arguments: argparse.Namespace) -> Dataset:
    with progress_bar() as progress:
        return open_dataset(config, cache_dir=cache_dir_of(arguments), progress=progress)
