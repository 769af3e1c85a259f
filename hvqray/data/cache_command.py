"""`python -m hvqray.data cache`: fill the feature cache for a dataset, or list or clear it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from rich.table import Table

from hvqray.command_line import DONE
from hvqray.data.cache import cache_entries, clear_cache, parse_bytes
from hvqray.data.command_options import (
    add_bit_depth_option,
    add_dataset_options,
    cache_dir_of,
    data_config,
    print_table,
)
from hvqray.data.prepare import prepare_data
from hvqray.data.progress import progress_bar
from hvqray.errors import InputError

_BUILDING = (
    *("data", "classes", "layout", "bit_depth", "image_size"),
    *("backbone", "weights", "strides", "grid_stride", "adapt_batchnorm", "device"),
)
"""Options that say which entry is built."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `run` reads."""
    parser.add_argument("--data", metavar="ROOT", help="folder of the dataset (default: the synthetic set)")
    add_dataset_options(parser)
    add_bit_depth_option(parser)
    parser.add_argument(
        "--image-size", type=int, default=224, metavar="PIXELS", help="side of the square, in pixels"
    )
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", metavar="NAME", help="timm backbone")
    parser.add_argument(
        "--weights", default="auto", metavar="SOURCE", help="auto, bundled, hub, random, or a file"
    )
    parser.add_argument(
        "--strides",
        type=int,
        nargs="+",
        default=[2, 4, 8, 16],
        metavar="N",
        help="strides of the stages used",
    )
    parser.add_argument(
        "--grid-stride",
        type=int,
        default=16,
        metavar="N",
        help="pixels per location of the grid that the stages are resized to",
    )
    parser.add_argument(
        "--adapt-batchnorm", action="store_true", help="re-estimate the batch statistics first"
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="where features are computed"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="list the entries instead")
    instead.add_argument(
        "--clear",
        action="store_true",
        help="remove all entries that are not in use instead, or with --limit as many as it takes",
    )
    parser.add_argument(
        "--limit",
        metavar="SIZE",
        help="clear what was not used for longest until at most SIZE (20GB, 500MB) is left (default: a built entry clears none, --clear all)",
    )
    parser.set_defaults(unset={name: parser.get_default(name) for name in _BUILDING})


def run(arguments: argparse.Namespace) -> int:
    """List, clear or build, as the arguments say; returns the exit code."""
    cache_dir = cache_dir_of(arguments)
    if arguments.list or arguments.clear:
        _check_builds_nothing(arguments)
    limit = None if arguments.limit is None else parse_bytes(arguments.limit, field="--limit")
    if arguments.list:
        _list(cache_dir)
    elif arguments.clear:
        _clear(cache_dir, limit)
    else:
        _build(arguments, cache_dir, limit)
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


def _list(cache_dir: Path) -> None:
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
    print_table(table)


def _clear(cache_dir: Path, limit_bytes: int | None) -> None:
    removed = clear_cache(cache_dir, limit_bytes=limit_bytes or 0)
    left = cache_entries(cache_dir)
    freed, taken = (sum(entry.size_bytes for entry in entries) for entries in (removed, left))
    still = f"{len(left)} left ({_size(taken)})" if limit_bytes else f"{len(left)} in use left"
    sys.stdout.write(f"removed {len(removed)} entries ({_size(freed)}); {still}\n")


def _build(arguments: argparse.Namespace, cache_dir: Path, limit_bytes: int | None) -> None:
    fields = {
        name: getattr(arguments, name)
        for name in ("layout", "classes", "bit_depth", "image_size", "adapt_batchnorm")
    }
    fields["backbone"] = {
        "name": arguments.backbone,
        "weights": arguments.weights,
        "strides": arguments.strides,
        "grid_stride": arguments.grid_stride,
    }
    config = data_config(arguments.data, fields)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no GPU; leave it out", field="--device cuda")
    with progress_bar() as progress:
        data = prepare_data(
            config,
            cache_dir=cache_dir,
            cache_limit_bytes=limit_bytes,
            device=arguments.device,
            progress=progress,
        )
    features = data.splits["train"].all_features
    shape = "x".join(map(str, features.shape[1:]))
    sys.stdout.write(f"{len(features)} images, features {shape} ({_size(features.nbytes)}) in {cache_dir}\n")


def _size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"
