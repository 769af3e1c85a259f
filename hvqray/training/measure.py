"""The one look at `test`, for a model that is already chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hvqray.atomic import replacing
from hvqray.data.dataset import PreparedData
from hvqray.data.groups import group_names
from hvqray.data.prepare import prepare_data
from hvqray.metrics import MAD, PIXEL_METRICS
from hvqray.metrics.histogram_file import StoredHistograms, writing_histograms
from hvqray.training.anomaly_images import EXAMPLES, save_examples
from hvqray.training.checkpoint import METRICS_FILE, load_model, write_record
from hvqray.training.communicator import SingleProcess
from hvqray.training.evaluation import Evaluator
from hvqray.training.optimisation import autocast
from hvqray.training.rule_choice import Metrics

SCORES_FILE = "test_scores.parquet"
PIXELS_FILE = "test_pixels.npz"
"""Histograms of each image's pixel scores, of which the pixel metrics' intervals are made."""


def measure_on_test(checkpoint: Path, *, device: str, cache_dir: Path | None) -> dict[str, Any]:
    """Add `test/...` metrics to a checkpoint's metrics.json, and the images' scores, their pixels' histograms and example maps of
    `test` beside it."""
    loaded = load_model(checkpoint, device=device)
    config = loaded.config
    data = prepare_data(config.data, cache_dir=cache_dir, device=device)
    split = data.splits["test"]

    def precision() -> AbstractContextManager[Any]:
        return autocast(config.train, torch.device(device))

    with writing_histograms(checkpoint / PIXELS_FILE) as histograms:
        evaluator = Evaluator(
            split,
            data.context,
            SingleProcess(device),
            batch_size=64,
            precision_context=precision,
            histograms=histograms,
        )
        measured = evaluator.evaluate(loaded.model, pixel_metrics=True)
    test = {name: value for name, value in measured.items() if name.startswith("test/")}
    if data.selected_on_test:  # the split is the same one, under its other name
        test = {
            f"test/{name.partition('/')[2]}": value
            for name, value in measured.items()
            if name.startswith(("val/", "test/"))
        }
    record = {**loaded.metrics, "metrics": {**loaded.metrics["metrics"], **test}}
    with precision():
        save_examples(loaded.model, split, data.context, checkpoint / EXAMPLES, scores_n=evaluator.scores_n)
    _write_scores(
        checkpoint / SCORES_FILE,
        data,
        evaluator.scores_n,
        config.data.validation.group,
    )
    write_record(checkpoint, record)
    return record


@dataclass(frozen=True)
class ImageScores:
    """What was measured of the images of one class, all (n,), in an order that all models on the same data share."""

    is_anomalous_n: np.ndarray
    score_n: np.ndarray
    group_n: np.ndarray
    """A number a group of images that belong together (`data.validation.group`), from 0; each by itself where there are none."""
    pixels: StoredHistograms | None = None
    """Of their pixels, in the same order; None where a version measured that left none."""


def read_test_scores(checkpoint: Path) -> dict[str, ImageScores]:
    """Class name to what was measured of its images of `test`."""
    table = pq.read_table(checkpoint / SCORES_FILE)
    names = np.array(table["class_name"].to_pylist())
    labels, scores = table["is_anomalous"].to_numpy(), table["score"].to_numpy()
    # Results of a version that knew no groups have no such column.
    groups = table["group"].to_numpy() if "group" in table.column_names else np.arange(len(table))
    pixels = checkpoint / PIXELS_FILE
    metrics: Metrics = {}
    if pixels.exists():
        metrics = json.loads((checkpoint / METRICS_FILE).read_text(encoding="utf-8"))["metrics"]
    return {
        str(name): ImageScores(
            labels[names == name],
            scores[names == name],
            np.unique(groups[names == name], return_inverse=True)[1],
            stored_histograms(pixels, str(name), metrics) if metrics else None,
        )
        for name in np.unique(names)
    }


def stored_histograms(path: Path, class_name: str, metrics: Mapping[str, float | None]) -> StoredHistograms:
    """Those of a class, of whoever's flat `metrics` these are."""
    exact = {metric: metrics.get(f"test/{class_name}/{metric}") for metric in (*PIXEL_METRICS, MAD)}
    return StoredHistograms(path, class_name, exact)


def _write_scores(path: Path, data: PreparedData, scores_n: np.ndarray, group: str | None) -> None:
    split, class_names = data.splits["test"], data.context.class_names
    groups = group_names(split.samples, group)
    table = pa.table(
        {
            "class_name": [class_names[c] for c in split.class_index],
            "defect": [sample.defect for sample in split.samples],
            "image": [sample.path.name for sample in split.samples],
            "group": np.unique(groups, return_inverse=True)[1],
            "is_anomalous": split.is_anomalous,
            "score": scores_n,
        },
        metadata={"hvqray.selected_on_test": json.dumps(data.selected_on_test)},
    )
    with replacing(path) as aside:
        pq.write_table(table, aside)
