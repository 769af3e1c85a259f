"""`python -m hvqray.evaluate CHECKPOINT`: all metrics per class of a saved model."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.text import Text

from hvqray.atomic import check_file, make_folder, write_atomically
from hvqray.command_line import DONE, add_cache_option, add_layout_option, argument_parser, run_command
from hvqray.config.data_sections import DataConfig, ValidationConfig
from hvqray.data.dataset import PreparedData, Split
from hvqray.data.layouts import AUTO, read_dataset
from hvqray.data.prepare import prepare_data
from hvqray.data.progress import progress_bar
from hvqray.environment import code_version, gpus_of, hardware
from hvqray.errors import InputError
from hvqray.results.class_table import ALL_LABELS, ClassTable, class_table, rows_with_mad
from hvqray.results.terminal_table import FigureTable, results_table
from hvqray.training.checkpoint import LoadedModel, load_model
from hvqray.training.communicator import SingleProcess
from hvqray.training.evaluation import Evaluator
from hvqray.training.optimisation import autocast

BATCH_SIZE = 64
OUT_SUFFIXES = (".json", ".csv")
ALL = "all"


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate a checkpoint, print a table, and write it to a file where one is named."""
    parser = argument_parser(
        "evaluate", "All seven metrics per class of a saved model, and their means over classes."
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=Path,
        help="folder with model.safetensors, such as runs/NAME/best, or that file",
    )
    parser.add_argument(
        "--data",
        metavar="ROOT",
        help="folder of the dataset (default: the data that the model was trained on)",
    )
    add_layout_option(parser)
    parser.add_argument(
        "--split",
        choices=["test", "val", ALL],
        default="test",
        help="split to evaluate on, as data.validation of the checkpoint makes it; all takes all test images of the dataset",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="also write the metrics to FILE, .json or .csv (default: no file)",
    )
    add_cache_option(parser)
    arguments = parser.parse_args(argv)
    if arguments.out is not None and arguments.out.suffix not in OUT_SUFFIXES:
        raise InputError(f"--out {arguments.out}: must end in {' or '.join(OUT_SUFFIXES)}")
    if arguments.out is not None:
        check_file(arguments.out, option="--out")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded = load_model(arguments.checkpoint, device=device)
    config, remarks = data_of(loaded, arguments.data, arguments.layout)
    if arguments.out is not None:
        make_folder(arguments.out.parent, option="--out")
    made_from_test = config.validation.from_ == "test"
    if arguments.split == ALL:
        config = config.model_copy(update={"validation": ValidationConfig.model_validate({"from": "none"})})
    with progress_bar() as progress:
        data = prepare_data(
            config,
            cache_dir=arguments.cache_dir,
            device=str(device),
            batchnorm=loaded.batchnorm,
            progress=progress,
        )
    split = "test" if arguments.split == ALL else arguments.split
    if not len(data.splits[split]):
        raise InputError(
            f"{arguments.split} has no images, so there is nothing to measure; give another --split, or --data with test images",
            field="--split",
        )
    metrics = evaluate(loaded, data, split, device)
    facts = provenance(loaded, config, arguments.split, device) | {"num_images": len(data.splits[split])}
    if made_from_test:
        remarks.append(_what_of_the_test_images(arguments.split, data))

    results = class_table(metrics, split)
    assert results is not None
    console = Console(markup=False, emoji=False)
    console.print(_table(results, facts))
    for remark in filter(None, [results.note, *remarks]):
        console.print(Text(remark))
    if arguments.out is not None:
        content = _json(metrics, facts) if arguments.out.suffix == ".json" else _csv(metrics, results, facts)
        write_atomically(arguments.out, content)
    return DONE


def data_of(loaded: LoadedModel, root: str | None, layout: str = AUTO) -> tuple[DataConfig, list[str]]:
    """The data to evaluate on, restricted to the classes that the model knows, and remarks on what differs from training.

    Raises:
        InputError: `root` holds no dataset of this layout, or none of the model's classes; or there is a layout but no root.
    """
    known = loaded.context.class_names
    config = loaded.config.data.model_copy(update={"classes": list(known)})
    if root is None:
        if layout != AUTO:
            raise InputError(f"{layout} without --data ROOT; give the dataset's folder", field="--layout")
        return config, []
    config = config.model_copy(update={"root": root, "layout": layout})
    found = read_dataset(root, layout).class_names
    shared = [name for name in known if name in found]
    if not shared:
        raise InputError(f"{root} has none of the model's classes ({', '.join(known)})", field="--data")
    remarks = [
        f"left out: {', '.join(names)} ({reason})"
        for names, reason in (
            ([name for name in found if name not in known], "unknown to the model"),
            ([name for name in known if name not in found], f"not in {root}"),
        )
        if names
    ]
    if config.adapt_batchnorm and loaded.batchnorm is None:
        remarks.append(
            "data.adapt_batchnorm: this checkpoint is of a version that did not store the backbone's statistics;"
            f" they are those of the training images in {root}"
        )
    return config.model_copy(update={"classes": shared}), remarks


def evaluate(
    loaded: LoadedModel, data: PreparedData, split_name: str, device: torch.device
) -> dict[str, float | None]:
    """Flat metrics (see `EpochReport`) of a loaded model on a split, in the precision it was trained in."""
    evaluator = Evaluator(
        with_classes_of(loaded, data.splits[split_name], data.context.class_names),
        loaded.context,
        SingleProcess(device),
        BATCH_SIZE,
        lambda: autocast(loaded.config.train, device),
    )
    return evaluator.evaluate(loaded.model, pixel_metrics=True)


def with_classes_of(loaded: LoadedModel, split: Split, class_names: tuple[str, ...]) -> Split:
    """`split`, whose class indices go by `class_names`, with the model's own indices."""
    own_index = np.array([loaded.context.class_names.index(name) for name in class_names], dtype=np.int64)
    return replace(split, class_index=own_index[split.class_index])


def provenance(loaded: LoadedModel, config: DataConfig, split: str, device: torch.device) -> dict[str, Any]:
    """What the reported numbers were measured with."""
    return {
        "split": split,
        "dataset": Path(config.root).resolve().name if config.root else "synthetic",
        "image_size": config.image_size,
        "seed": loaded.config.train.seed,
        "selected_on_test": loaded.selected_on_test,
        "code_version": code_version(),
        "hardware": hardware(gpus_of(device)),
    }


def _what_of_the_test_images(split: str, data: PreparedData) -> str:
    """How many of the dataset's test images the figures are of, where `val` is a part of them."""
    if split == ALL:
        return f"all {len(data.splits['test'])} test images, among them any that were val when the model was chosen"
    num_images, num_others = len(data.splits[split]), len(data.splits["val" if split == "test" else "test"])
    return (
        f"{num_images} of the dataset's {num_images + num_others} test images (--split all takes all of them)"
    )


def _table(results: ClassTable, facts: dict[str, Any]) -> FigureTable:
    mark = " (selected on test)" if facts["selected_on_test"] else ""
    return results_table(
        results,
        f"{facts['dataset']}, {facts['split']}{mark}, {facts['image_size']} px, seed {facts['seed']}",
        caption=f"hvqray {facts['code_version']}, {facts['hardware']}",
    )


def _json(metrics: dict[str, float | None], facts: dict[str, Any]) -> str:
    return json.dumps({**facts, "metrics": metrics}, indent=2, allow_nan=False) + "\n"


def _csv(metrics: dict[str, float | None], results: ClassTable, facts: dict[str, Any]) -> str:
    """A row a class, the mean last; an undefined metric is an empty cell."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["class_name", *ALL_LABELS, *facts])
    for row in rows_with_mad(metrics, results):
        writer.writerow([*row, *facts.values()])
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(run_command(main))
