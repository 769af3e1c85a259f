"""`python -m hvqray.export CHECKPOINT --format onnx`: one file that takes images and gives anomaly maps and scores.

The file holds backbone and model, in float32. It is run by ONNX Runtime before it is left on disk, and must give what
PyTorch gives.

Legend: b images (any number), S side of the square that the model sees.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from hvqray.atomic import check_file, replacing
from hvqray.command_line import DONE, add_cache_option, argument_parser, run_command
from hvqray.data.images import load_image
from hvqray.environment import code_version
from hvqray.errors import InputError
from hvqray.metrics import THRESHOLD
from hvqray.models.batch import Batch
from hvqray.training.backbone_state import batchnorm_of
from hvqray.training.checkpoint import LoadedModel, load_model

NEEDED = ("onnx", "onnxruntime", "onnxscript")
NUM_RANDOM_IMAGES = 4
CHECK_BATCH_SIZES = (1, 3)
"""The images of the check go through in batches of these sizes in turn: a batch size must not have been baked in."""


class Detector(nn.Module):
    """From pixels to map and score, as `hvqray.predict` computes them, but in float32 throughout.

    There, features are rounded to float16 as in the cache. Here that would only turn tiny differences between two
    runtimes into larger ones, as does every rounding to discrete values.
    """

    def __init__(self, backbone: nn.Module, model: Any) -> None:
        super().__init__()
        self.backbone, self.model = backbone, model
        self.eval()

    def forward(
        self, images_b3SS: UInt8[Tensor, "b 3 s s"], class_index_b: Int[Tensor, " b"] | None = None
    ) -> tuple[Float[Tensor, "b s s"], Float[Tensor, " b"]]:
        """Anomaly maps and image scores of RGB images; the class index is for models that must be told the class."""
        if class_index_b is None:
            class_index_b = images_b3SS.new_zeros(images_b3SS.shape[0], dtype=torch.int64)
        prediction = self.model.predict(Batch(self.backbone(images_b3SS), class_index_b, images_b3SS))
        return prediction.maps_BHW, prediction.scores_B


@dataclass(frozen=True)
class Difference:
    """How far ONNX Runtime is from PyTorch, as shares of the range (highest - lowest value) of PyTorch's maps."""

    maps: float
    scores: float
    num_random: int
    num_real: int

    @property
    def largest(self) -> float:
        return max(self.maps, self.scores)

    def describe(self) -> str:
        """`largest difference on 4 random and 12 real images: maps 1.2e-05, scores 3e-06 of the maps' range`."""
        images = f"{self.num_random} random and {self.num_real} real images"
        return f"largest difference on {images}: maps {self.maps:.1e}, scores {self.scores:.1e} of the maps' range"


def main(argv: Sequence[str] | None = None) -> int:
    """Export, check and report."""
    parser = argument_parser(
        "export",
        "Write backbone and model as one file that takes uint8 images and gives anomaly maps and scores.",
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=Path,
        help="folder with model.safetensors, such as runs/NAME/best, or that file",
    )
    parser.add_argument("--format", choices=["onnx"], default="onnx", help="format of the file")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="the file to write (default: model.onnx in the checkpoint's folder)",
    )
    parser.add_argument(
        "--tolerance",
        metavar="SHARE",
        type=float,
        default=1e-3,
        help="largest difference from PyTorch that is accepted, as a share of the range of the anomaly maps (of scores, of their own range if that is wider)",
    )
    add_cache_option(parser)
    arguments = parser.parse_args(argv)
    if not arguments.tolerance > 0:
        raise InputError(f"{arguments.tolerance} must be above 0", field="--tolerance")

    check_requirements()
    folder = arguments.checkpoint if arguments.checkpoint.is_dir() else arguments.checkpoint.parent
    out = arguments.out or folder / "model.onnx"
    if not out.parent.is_dir():
        raise InputError("its folder does not exist; create it", source=str(out), field="--out")
    check_file(out, option="--out")
    loaded = load_model(arguments.checkpoint)
    detector = build_detector(loaded, cache_dir=arguments.cache_dir)
    difference = export_onnx(detector, loaded, out, examples=folder / "maps", tolerance=arguments.tolerance)
    mark = "; the model was selected on test" if loaded.selected_on_test else ""
    sys.stdout.write(f"{out}: {out.stat().st_size / 1e6:.1f} MB; {difference.describe()}{mark}\n")
    return DONE


def check_requirements() -> None:
    """Raise InputError where the libraries of the `export` extra are missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"onnx needs {', '.join(missing)}; pip install 'hvqray[export]'", field="--format")


def build_detector(loaded: LoadedModel, *, cache_dir: Path | None) -> Detector:
    """Backbone and model of a checkpoint, on the CPU.

    Raises:
        InputError: the backbone's weights, or the data whose batch statistics it was adapted to, are not to be had.
    """
    from hvqray.data.backbones import load_backbone  # timm takes seconds to import

    data = loaded.config.data
    batchnorm = batchnorm_of(loaded, cache_dir=cache_dir)
    backbone = load_backbone(data.backbone, loaded.context.image_size, batchnorm=batchnorm)
    return Detector(backbone, loaded.model)


def export_onnx(
    detector: Detector, loaded: LoadedModel, out: Path, *, examples: Path, tolerance: float
) -> Difference:
    """Write `out`, unless ONNX Runtime and PyTorch differ by more than `tolerance`; returns by how much they do.

    They are compared on random images and on the pictures `CLASS_NNN_image.png` in the folder `examples`.

    Raises:
        InputError: they differ by more; `out` is then as it was.
    """
    images_n3SS, class_index_n, num_real = check_images(loaded, examples)
    with replacing(out) as aside:
        _write(detector, loaded, aside)
        maps, scores = _largest_differences(detector, aside, images_n3SS, class_index_n, takes_class(loaded))
        difference = Difference(maps, scores, num_random=len(images_n3SS) - num_real, num_real=num_real)
        if not difference.largest <= tolerance:
            raise InputError(
                f"{difference.describe()}; not written, as that exceeds --tolerance {tolerance:g}",
                source=str(out),
            )
    return difference


def takes_class(loaded: LoadedModel) -> bool:
    """Whether the file has the second input `class_index`: the model must be told the class of an image."""
    return loaded.config.model.router == "oracle"


def check_images(loaded: LoadedModel, examples: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Images (n, 3, S, S) uint8, their class indices (n,), and how many of them, the last ones, are real."""
    size, names = loaded.context.image_size, loaded.context.class_names
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (NUM_RANDOM_IMAGES, 3, size, size), dtype=np.uint8))
    classes = [i % len(names) for i in range(NUM_RANDOM_IMAGES)]
    for path in sorted(examples.glob("*_image.png")):
        class_name = path.name.rsplit("_", 2)[0]
        if class_name in names:
            images.append(load_image(path, size).transpose(2, 0, 1))
            classes.append(names.index(class_name))
    return np.stack(images), np.array(classes, dtype=np.int64), len(images) - NUM_RANDOM_IMAGES


def _write(detector: Detector, loaded: LoadedModel, path: Path) -> None:
    size = loaded.context.image_size
    example: tuple[Tensor, ...] = (torch.zeros(2, 3, size, size, dtype=torch.uint8),)
    names = ["images"]
    if takes_class(loaded):
        example += (torch.zeros(2, dtype=torch.int64),)
        names.append("class_index")
    batch = torch.export.Dim("batch")
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    network = f"model {loaded.config.model.name!r} on backbone {loaded.config.data.backbone.name!r}"
    # What the exporter says of its own workings, and the graph that it prints before it fails, help no user.
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                detector,
                example,
                dynamo=True,
                verbose=False,
                input_names=names,
                output_names=["maps", "scores"],
                dynamic_shapes=tuple({0: batch} for _ in example),
            )
        except torch.onnx.OnnxExporterError as error:
            reason = " ".join(str(error.__cause__ or error).split())[:200]
            raise InputError(
                f"cannot be exported ({reason}); choose another backbone", field=network
            ) from error
    assert program is not None
    shape = program.model.graph.inputs[0].shape
    if shape is not None and isinstance(shape[0], int):  # the exporter bakes a size in rather than fail
        raise InputError(f"fix the number of images to {shape[0]}; choose another backbone", field=network)
    program.model.metadata_props.update(_metadata(loaded))
    program.save(path, external_data=False)


def _metadata(loaded: LoadedModel) -> dict[str, str]:
    """What whoever runs the file must know: ONNX Runtime gives it as `get_modelmeta().custom_metadata_map`."""
    measured = loaded.metrics.get("metrics", {})
    names = loaded.context.class_names
    return {
        "hvqray_version": code_version(),
        "class_names": json.dumps(names),
        "thresholds": json.dumps({name: measured.get(f"val/{name}/{THRESHOLD}") for name in names}),
        "selected_on_test": json.dumps(loaded.selected_on_test),
        "config": loaded.config.model_dump_json(by_alias=True),
    }


def _largest_differences(
    detector: Detector, path: Path, images_n3SS: np.ndarray, class_index_n: np.ndarray, with_class: bool
) -> tuple[float, float]:
    """Of maps, as a share of the range of PyTorch's maps, and of scores, as a share of that or of their own range, if wider."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    maps_error = scores_error = 0.0
    all_maps, all_scores = [], []
    start = turn = 0
    while start < len(images_n3SS):
        rows = slice(start, start + CHECK_BATCH_SIZES[turn % len(CHECK_BATCH_SIZES)])
        inputs = {"images": images_n3SS[rows]} | ({"class_index": class_index_n[rows]} if with_class else {})
        maps, scores = session.run(["maps", "scores"], inputs)
        with torch.no_grad():
            expected_maps, expected_scores = (
                output.numpy() for output in detector(*(torch.from_numpy(array) for array in inputs.values()))
            )
        # np.max keeps NaN, which no tolerance lets pass.
        maps_error = float(np.max([maps_error, np.abs(maps - expected_maps).max()]))
        scores_error = float(np.max([scores_error, np.abs(scores - expected_scores).max()]))
        all_maps += [expected_maps.min(), expected_maps.max()]
        all_scores += [expected_scores.min(), expected_scores.max()]
        start, turn = rows.stop, turn + 1
    # A score may be taken from other distances than the map is made of (`score_from`). Nothing is divided by 0.
    maps_range = float(max(np.ptp(all_maps), np.finfo(np.float32).tiny))
    return maps_error / maps_range, scores_error / max(maps_range, float(np.ptp(all_scores)))


if __name__ == "__main__":
    sys.exit(run_command(main))
