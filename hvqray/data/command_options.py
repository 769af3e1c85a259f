"""Options that the commands of `hvqray.data` share, and what they say as a `DataConfig`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from hvqray.command_line import add_cache_option, add_layout_option
from hvqray.config.data_sections import DataConfig
from hvqray.config.faults import first_fault
from hvqray.config.run_config import absolute_root
from hvqray.data.cache import cache_dir_or_default
from hvqray.errors import InputError

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


def add_dataset_options(parser: argparse.ArgumentParser) -> None:
    """Which images of a folder are a dataset's, and where its features lie."""
    add_cache_option(parser)
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="only these classes (default: all)")
    add_layout_option(parser)


def add_bit_depth_option(parser: argparse.ArgumentParser) -> None:
    """`--bit-depth`, for the commands that read grey values."""
    parser.add_argument(
        "--bit-depth",
        type=int,
        metavar="BITS",
        help="bits of the camera whose grey values lie in 16-bit files: 10, 12 or 14 (default: all 16)",
    )


def data_config(root: str | None, fields: Mapping[str, Any]) -> DataConfig:
    """The configuration of the dataset in `root` (None: the synthetic set) with these `fields` of `data`.

    Raises:
        InputError: A field is invalid; it names the option that sets the field.
    """
    try:
        return DataConfig.model_validate({"root": None if root is None else absolute_root(root), **fields})
    except ValidationError as error:
        field, message = first_fault(error, DataConfig)
        option = _OPTIONS.get(field.partition("[")[0], f"data.{field}")
        raise InputError(message, field=option) from None


def cache_dir_of(arguments: argparse.Namespace) -> Path:
    """The folder that `--cache-dir` names, or the default one."""
    return cache_dir_or_default(arguments.cache_dir)


def print_table(table: Table) -> None:
    """On stdout, as wide as the terminal; where there is none, no cell is folded."""
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:  # 80 columns, the default there, would fold every cell
        console = Console(width=160, markup=False, emoji=False)
    console.print(table)
