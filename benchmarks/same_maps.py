"""Maps and scores of one fixed model with each gain of evaluation on and off; `same_result` prints the lines.

The model is trained for some steps on the synthetic set and measured on its normal images. The base is the product in fp32: features of the
folded backbone, which stops at the last stage used, and HVQ-Trans's keys and values computed once per code.

Legend: B images of one class, C feature channels, h x w grid, S image size.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.commands import write_small_set
from benchmarks.problems import Problem
from benchmarks.product_step import ProductStep
from benchmarks.published_loop import PlainBackbone
from hvqray.config.data_sections import BackboneConfig, DataConfig
from hvqray.data.backbones import load_backbone
from hvqray.data.dataset import PreparedData
from hvqray.data.prepare import prepare_data
from hvqray.models.batch import Batch
from hvqray.models.code_tokens import CodeTokens
from hvqray.models.hvq import HvqModel
from hvqray.models.interface import AnomalyModel
from hvqray.quantizers.vq import QuantizerOutput
from hvqray.training.calibration import Calibrator
from hvqray.training.communicator import SingleProcess
from hvqray.training.evaluation import evaluating
from hvqray.training.optimisation import autocast

Outputs = tuple[Tensor, Tensor, Tensor]
"""Scores (n,), maps (n, S, S) and codes (all levels', one after the other) of all images of `val`, class by class."""
Extractor = Callable[[Tensor], Tensor]


def map_moves(problem: Problem, folder: Path, device: str, *, num_steps: int) -> list[list[str]]:
    """Rows of model, change, largest move of a score and of a map's value, each over the standard deviation of all, and codes changed.

    The images lie in `folder`, where they are written once.
    """
    data = _small_set(problem, folder, device)
    problem = replace(problem, num_classes=len(data.context.class_names), weights="auto")
    model = _trained(problem, data, device, num_steps=num_steps)
    config = BackboneConfig(name=problem.backbone)
    folded = load_backbone(config, problem.image_size).to(device)
    plain = PlainBackbone(problem).to(device).eval()
    base = _predict(model, data, device, folded)
    moved = {
        "backbone as timm gives it": _predict(model, data, device, plain),
        "features kept in float16": _predict(model, data, device, lambda images: folded(images).half()),
        "bf16": _predict(
            model,
            data,
            device,
            folded,
            precision=lambda: autocast(problem.train_config("bf16"), torch.device(device)),
        ),
    }
    if isinstance(model, HvqModel):
        with patch("hvqray.models.hvq.code_tokens", _every_token):
            moved["keys and values per token"] = _predict(model, data, device, folded)
    return [[problem.name, name, *_moved(base, other)] for name, other in moved.items()]


def _small_set(problem: Problem, folder: Path, device: str) -> PreparedData:
    root = str(write_small_set(folder / "data"))
    config = {"root": root, "image_size": problem.image_size, "backbone": {"name": problem.backbone}}
    return prepare_data(DataConfig.model_validate(config), cache_dir=folder / "cache", device=device)


def _trained(problem: Problem, data: PreparedData, device: str, *, num_steps: int) -> AnomalyModel:
    train = data.splits["train"]
    step = ProductStep(problem, train, precision="fp32", device=device)
    for _ in range(num_steps):
        step()
    Calibrator(train, SingleProcess(device), images_per_class=None).calibrate(step.model)
    return step.model


def _predict(
    model: AnomalyModel,
    data: PreparedData,
    device: str,
    extract: Extractor,
    *,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Outputs:
    val = data.splits["val"]
    scores, maps, codes = [], [], []
    for class_index, positions in val.by_class():
        images_B3SS = torch.from_numpy(val.images(positions)).to(device)
        class_index_B = torch.full((len(positions),), class_index, device=device)
        features_BChw = extract(images_B3SS).float()
        with evaluating(model), precision():
            prediction = model.predict(Batch(features_BChw, class_index_B, images_B3SS))
        scores.append(prediction.scores_B.cpu())
        maps.append(prediction.maps_BHW.cpu())
        codes += [codes_BL.flatten().cpu() for codes_BL in prediction.codes.values()]
    return torch.cat(scores), torch.cat(maps), torch.cat(codes)


def _every_token(level: object, output: QuantizerOutput, route_B: Tensor) -> CodeTokens:
    """As `code_tokens` where there are more codes than tokens."""
    return CodeTokens(output.quantized_BLD)


def _moved(base: Outputs, other: Outputs) -> list[str]:
    *values, (codes, other_codes) = zip(base, other, strict=True)
    moves = [f"{(b - a).abs().max() / a.std():.1e}" for a, b in values]
    return [*moves, f"{int((codes != other_codes).sum())} of {len(codes)}"]
