"""`python -m hvqray.predict CHECKPOINT IMAGE_OR_FOLDER... --out DIR`: score, label and anomaly map of images.

Legend: n images, S side of the square that the model sees.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.text import Text

from hvqray.atomic import check_file, make_folder, naming, write_atomically
from hvqray.command_line import (
    DONE,
    INPUT_AT_FAULT,
    add_cache_option,
    argument_parser,
    print_error,
    run_command,
)
from hvqray.data.files import check_name, image_files, told_of_formats, unread_images
from hvqray.data.progress import progress_bar
from hvqray.errors import InputError, did_you_mean
from hvqray.metrics import THRESHOLD
from hvqray.training.checkpoint import LoadedModel, load_model
from hvqray.training.predict_images import predict_images
from hvqray.training.prediction_files import (
    CSV_FILE,
    Prediction,
    called_like_a_map,
    csv_text,
    draw,
    earlier_maps,
)

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Predict images, print a line for each, and write predictions.csv and a map per image; those that cannot be read are named."""
    parser = argument_parser(
        "predict",
        "Score, label and anomaly map of images: DIR/predictions.csv and one DIR/NNNN_STEM.png each.",
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=Path,
        help="folder with model.safetensors, such as runs/NAME/best, or that file",
    )
    parser.add_argument(
        "inputs",
        metavar="IMAGE_OR_FOLDER",
        type=Path,
        nargs="+",
        help="an image, or a folder whose images are taken (without subfolders, and without the maps of earlier predictions into it)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        required=True,
        help="folder for the results; those of an earlier run there, predictions.csv and the maps that it names, are replaced",
    )
    parser.add_argument(
        "--class",
        metavar="NAME",
        dest="class_name",
        help="product class of the images (default: the nearest folder above an image that bears a class's name)",
    )
    add_cache_option(parser)
    arguments = parser.parse_args(argv)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded = load_model(arguments.checkpoint, device=device)
    paths = find_images(arguments.inputs)
    if mistaken := called_like_a_map(paths, arguments.out):
        raise InputError(
            "lies in --out and is called like a map there; choose another --out", source=str(mistaken)
        )
    classes = [class_of(path, loaded, arguments.class_name) for path in paths]
    make_folder(arguments.out, option="--out")
    check_file(arguments.out / CSV_FILE, option="--out")
    size = loaded.context.image_size
    with tempfile.TemporaryFile(dir=arguments.out) as file, progress_bar() as progress:
        # Colours depend on all maps of a class, so the maps wait on disk: memory holds one batch.
        shape = len(paths), size, size
        # Taken from the disk at once: where it is full, writing to mapped memory kills the process.
        with naming(arguments.out):
            os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(np.float32).itemsize)
        maps_nSS = np.memmap(file, dtype=np.float32, shape=shape, mode="r+")
        scores_n, classes, faults, remarks = predict_images(
            loaded, paths, classes, maps_nSS, device=device, cache_dir=arguments.cache_dir, progress=progress
        )
        read = [row for row in range(len(paths)) if row not in faults]
        predictions = [
            Prediction(paths[row], classes[row], float(scores_n[row]), threshold_of(loaded, classes[row]))
            for row in read
        ]
        if predictions:
            named = set(map(os.path.realpath, paths))  # Path.resolve fails at links in a circle
            earlier = [
                path for path in earlier_maps(arguments.out / CSV_FILE) if os.path.realpath(path) not in named
            ]
            # Before the maps, each of which can fail: what the model says is worth more.
            write_atomically(arguments.out / CSV_FILE, csv_text(predictions, loaded.selected_on_test))
            for path in earlier:
                path.unlink(missing_ok=True)
            maps = [maps_nSS[row] for row in read]
            draw(predictions, maps, arguments.out, bit_depth=loaded.config.data.bit_depth)
    _print(predictions, loaded.selected_on_test)
    for remark in remarks:
        logger.warning(remark)
    for _, fault in sorted(faults.items()):
        print_error(str(fault))
    if faults and predictions:
        print_error(
            f"{len(faults)} of {len(paths)} images could not be scored; {arguments.out} has the others"
        )
    return INPUT_AT_FAULT if faults else DONE


def find_images(inputs: Iterable[Path]) -> list[Path]:
    """The image files that the user named, each once, in the order given.

    Of a folder, maps that earlier predictions have left in it are none; images in formats that are not read are warned of.

    Raises:
        InputError: an input is missing, neither file nor folder, or a folder without images that are read; or a name is not UTF-8.
    """
    paths: list[Path] = []
    for path in inputs:
        if not path.exists():
            raise InputError("no such image or folder", source=str(path))
        check_name(path)
        found = _images_in(path) if path.is_dir() else [path]
        if skipped := [image.name for image in unread_images(path)]:
            if not found:
                raise InputError(told_of_formats(skipped), source=str(path))
            logger.warning("%s: %s", path, told_of_formats(skipped))
        if not found:
            raise InputError("no image in this folder (subfolders are not searched)", source=str(path))
        if not path.is_dir() and not path.is_file():
            raise InputError("is no file but a pipe or a device; give an image or a folder", source=str(path))
        paths += found
    return list(dict.fromkeys(paths))


def _images_in(folder: Path) -> list[Path]:
    maps = set(earlier_maps(folder / CSV_FILE))
    return [path for path in image_files(folder) if path not in maps]


def class_of(path: Path, loaded: LoadedModel, given: str | None) -> str | None:
    """Product class of an image: as given, else after a folder above it, else the only one; None where it is unknown.

    Raises:
        InputError: the given class is unknown to the model, or the model must be told a class and there is none.
    """
    known = loaded.context.class_names
    if given is not None:
        if given not in known:
            raise InputError(
                f"{given!r} is no class of this model{did_you_mean(given, known)}", field="--class"
            )
        return given
    # By the path as it was given: links to images often lead to a store that knows no classes.
    for folder in Path(os.path.abspath(path)).parents:
        if folder.name in known:
            return folder.name
    if len(known) == 1:
        return known[0]
    if loaded.config.model.router == "oracle":
        raise InputError(
            f"its class is unknown, and this model (router: oracle) must be told; give --class ({', '.join(known)})",
            source=str(path),
        )
    return None


def threshold_of(loaded: LoadedModel, class_name: str | None) -> float | None:
    """The threshold of a class that the checkpoint's metrics hold, if any."""
    return loaded.metrics.get("metrics", {}).get(f"val/{class_name}/{THRESHOLD}")


def _print(predictions: list[Prediction], selected_on_test: bool) -> None:
    console = Console(markup=False, emoji=False)
    for p in predictions:
        label = p.label or "no label"
        console.print(
            Text(f"{p.path}  {p.class_name or 'class unknown'}  {p.score:.4g}  {label}"), soft_wrap=True
        )
    unlabelled = sum(p.label is None for p in predictions)
    if unlabelled:
        console.print(
            f"{unlabelled} of {len(predictions)} images have no label: the checkpoint has no threshold for their class"
            " (it is taken on val, where a class has normal and anomalous images)",
            soft_wrap=True,
        )
    if selected_on_test:
        console.print(
            "selected on test: the model was chosen, and its thresholds taken, on test images", soft_wrap=True
        )


if __name__ == "__main__":
    sys.exit(run_command(main))
