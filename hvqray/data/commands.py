"""`python -m hvqray.data describe|check|cache|synth`: look at a dataset, find its faults, fill the cache."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from hvqray.atomic import make_folder
from hvqray.command_line import (
    DONE,
    INPUT_AT_FAULT,
    add_cache_option,
    add_layout_option,
    argument_parser,
    run_command,
)
from hvqray.config.data_sections import BitDepth, DataConfig
from hvqray.config.faults import first_fault
from hvqray.config.run_config import absolute_root
from hvqray.data.bit_depth import Largest, remarks
from hvqray.data.cache import cache_entries, clear_cache, default_cache_dir, parse_bytes
from hvqray.data.check import check_dataset
from hvqray.data.dataset import Dataset
from hvqray.data.describe import NUM_DECODED, describe_dataset
from hvqray.data.files import counted
from hvqray.data.prepare import open_dataset, prepare_data
from hvqray.data.progress import progress_bar
from hvqray.data.synthetic import write_synthetic
from hvqray.errors import InputError

logger = logging.getLogger(__name__)

_OPTIONS = {
    "classes": "--classes",
    "bit_depth": "--bit-depth",
    "image_size": "--image-size",
    "backbone.name": "--backbone",
    "backbone.weights": "--weights",
    "backbone.strides": "--strides",
    "backbone.grid_stride": "--grid-stride",
}
"""Field of `data` to the option that sets it."""
_BUILDING = (
    *("data", "classes", "layout", "bit_depth", "image_size"),
    *("backbone", "weights", "strides", "grid_stride", "adapt_batchnorm", "device"),
)
"""Options of `cache` that say which entry is built."""


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

    def add_dataset_options(sub: argparse.ArgumentParser) -> None:
        add_cache_option(sub)
        sub.add_argument("--classes", nargs="+", metavar="CLASS", help="only these classes (default: all)")
        add_layout_option(sub)

    def add_bit_depth_option(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--bit-depth",
            type=int,
            metavar="BITS",
            help="bits of the camera whose grey values lie in 16-bit files: 10, 12 or 14 (default: all 16)",
        )

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

    sub = add("cache", _cache, "Fill the feature cache for a dataset, or list or clear it.")
    sub.add_argument("--data", metavar="ROOT", help="folder of the dataset (default: the synthetic set)")
    add_dataset_options(sub)
    add_bit_depth_option(sub)
    sub.add_argument(
        "--image-size", type=int, default=224, metavar="PIXELS", help="side of the square, in pixels"
    )
    sub.add_argument("--backbone", default="tf_efficientnet_lite0", metavar="NAME", help="timm backbone")
    sub.add_argument(
        "--weights", default="auto", metavar="SOURCE", help="auto, bundled, hub, random, or a file"
    )
    sub.add_argument(
        "--strides",
        type=int,
        nargs="+",
        default=[2, 4, 8, 16],
        metavar="N",
        help="strides of the stages used",
    )
    sub.add_argument(
        "--grid-stride",
        type=int,
        default=16,
        metavar="N",
        help="pixels per location of the grid that the stages are resized to",
    )
    sub.add_argument("--adapt-batchnorm", action="store_true", help="re-estimate the batch statistics first")
    sub.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where features are computed")
    instead = sub.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="list the entries instead")
    instead.add_argument(
        "--clear",
        action="store_true",
        help="remove all entries that are not in use instead, or with --limit as many as it takes",
    )
    sub.add_argument(
        "--limit",
        metavar="SIZE",
        help="clear what was not used for longest until at most SIZE (20GB, 500MB) is left (default: a built entry clears none, --clear all)",
    )
    sub.set_defaults(unset={name: sub.get_default(name) for name in _BUILDING})

    sub = add("synth", _synth, "Write the built-in synthetic set as PNG files.")
    sub.add_argument("--out", required=True, metavar="DIR", help="new folder to write")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the images")
    return parser


def _describe(arguments: argparse.Namespace) -> int:
    table, largest = describe_dataset(_dataset(_dataset_config(arguments), arguments))
    _print_table(table)
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
    _tell_of_16_bits(found.largest, among="all", bit_depth=config.bit_depth)
    return INPUT_AT_FAULT if found.faults else DONE


def _tell_of_16_bits(largest: Largest, *, among: str, bit_depth: BitDepth | None = None) -> None:
    if largest:
        values = ", ".join(f"{value} ({kind})" for kind, value in sorted(largest.items()))
        sys.stdout.write(f"16-bit images: largest value {values}, of {among}\n")
    for line in remarks(largest, bit_depth):
        logger.warning(line)


def _cache(arguments: argparse.Namespace) -> int:
    cache_dir = _cache_dir(arguments)
    if arguments.list or arguments.clear:
        _check_builds_nothing(arguments)
    limit = None if arguments.limit is None else parse_bytes(arguments.limit, field="--limit")
    if arguments.list:
        _list_entries(cache_dir)
        return DONE
    if arguments.clear:
        removed = clear_cache(cache_dir, limit_bytes=limit or 0)
        left = cache_entries(cache_dir)
        freed, taken = (sum(entry.size_bytes for entry in entries) for entries in (removed, left))
        still = f"{len(left)} left ({_size(taken)})" if limit else f"{len(left)} in use left"
        sys.stdout.write(f"removed {len(removed)} entries ({_size(freed)}); {still}\n")
        return DONE
    backbone = {
        "name": arguments.backbone,
        "weights": arguments.weights,
        "strides": arguments.strides,
        "grid_stride": arguments.grid_stride,
    }
    config = _config(
        root=arguments.data,
        layout=arguments.layout,
        classes=arguments.classes,
        bit_depth=arguments.bit_depth,
        image_size=arguments.image_size,
        backbone=backbone,
        adapt_batchnorm=arguments.adapt_batchnorm,
    )
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no GPU; leave it out", field="--device cuda")
    with progress_bar() as progress:
        data = prepare_data(
            config, cache_dir=cache_dir, cache_limit_bytes=limit, device=arguments.device, progress=progress
        )
    features = data.splits["train"].all_features
    shape = "x".join(map(str, features.shape[1:]))
    sys.stdout.write(f"{len(features)} images, features {shape} ({_size(features.nbytes)}) in {cache_dir}\n")
    return DONE


def _check_builds_nothing(arguments: argparse.Namespace) -> None:
    """Raise InputError where `--list` or `--clear`, which look at no dataset, come with an option that would have no effect."""
    what = "--list" if arguments.list else "--clear"
    useless = [name for name, unset in arguments.unset.items() if getattr(arguments, name) != unset]
    if arguments.list and arguments.limit is not None:
        useless.append("limit")
    if useless:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in useless)
        raise InputError(f"goes without {options}; leave one of them out", field=what)


def _synth(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.out).expanduser().absolute()
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
    return _config(
        root=arguments.root, layout=arguments.layout, classes=arguments.classes, bit_depth=bit_depth
    )


def _dataset(config: DataConfig, arguments: argparse.Namespace) -> Dataset:
    with progress_bar() as progress:
        return open_dataset(config, cache_dir=_cache_dir(arguments), progress=progress)


def _config(*, root: str | None, **fields: Any) -> DataConfig:
    try:
        return DataConfig.model_validate({"root": None if root is None else absolute_root(root), **fields})
    except ValidationError as error:
        field, message = first_fault(error, DataConfig)
        option = _OPTIONS.get(field.partition("[")[0], f"data.{field}")
        raise InputError(message, field=option) from None


def _cache_dir(arguments: argparse.Namespace) -> Path:
    return (arguments.cache_dir or default_cache_dir()).expanduser().absolute()


def _list_entries(cache_dir: Path) -> None:
    table = Table(title=str(cache_dir), title_justify="left")
    for heading in ("entry", "content", "size", "last used", "in use"):
        table.add_column(heading, overflow="fold")
    entries = cache_entries(cache_dir)
    for entry in entries:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used))
        table.add_row(
            entry.path.name, entry.description, _size(entry.size_bytes), used, "yes" if entry.in_use else "no"
        )
    table.caption = f"{_size(sum(entry.size_bytes for entry in entries))} in all"
    _print_table(table)


def _print_table(table: Table) -> None:
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:  # 80 columns, the default there, would fold every cell
        console = Console(width=160, markup=False, emoji=False)
    console.print(table)


def _size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"
