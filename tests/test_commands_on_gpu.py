"""The commands on a pretended GPU: features for the cache, a run with its look at `test`, evaluation, prediction, export."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretend_gpu import pretend_gpu
from small_checkpoint import SMALL_HVQ, write_checkpoint, write_dataset

from hvqray import evaluate, export, predict, train
from hvqray.command_line import run_command
from hvqray.config.sections import RunConfig
from hvqray.data.prepare import prepare_data
from hvqray.training.checkpoint import load_model

MODEL = {**SMALL_HVQ, "router": "predicted"}


@dataclass
class Place:
    """Where the dataset, the CPU's cache and a checkpoint of the CPU lie."""

    root: Path
    cache: Path
    checkpoint: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("gpu")
    place = Place(folder / "parts", folder / "cache", folder / "best")
    write_dataset(place.root)
    write_checkpoint(place.checkpoint, place.root, place.cache, model=MODEL, adapt_batchnorm=True)
    return place


def test_features_and_batch_statistics_are_the_cpus(place: Place, tmp_path: Path) -> None:
    config = load_model(place.checkpoint).config.data
    on_cpu = prepare_data(config, cache_dir=place.cache)
    with pretend_gpu() as gpu:
        on_gpu = prepare_data(config, cache_dir=tmp_path, device="cuda")
    assert any(wait.startswith("tensors.py:") for wait in gpu.waits), "the features came from elsewhere"
    assert on_cpu.batchnorm is not None
    assert on_gpu.batchnorm is not None
    for name, values in on_cpu.batchnorm.items():
        np.testing.assert_allclose(on_gpu.batchnorm[name], values, rtol=1e-4, atol=1e-5)
    for name, split in on_cpu.splits.items():
        every = np.arange(len(split))
        expected, found = split.features(every), on_gpu.splits[name].features(every)
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)


def test_a_checkpoint_is_evaluated_alike(place: Place, tmp_path: Path) -> None:
    def measured(name: str) -> dict[str, Any]:
        out = tmp_path / name
        arguments = [str(place.checkpoint), "--cache-dir", str(place.cache), "--out", str(out)]
        assert run_command(evaluate.main, arguments) == 0
        return json.loads(out.read_text())["metrics"]

    on_cpu = measured("cpu.json")
    with pretend_gpu():
        on_gpu = measured("gpu.json")
    assert on_gpu == pytest.approx(on_cpu, abs=1e-5)


def test_images_are_predicted_alike(place: Place, tmp_path: Path) -> None:
    def predicted(out: Path) -> list[dict[str, str]]:
        arguments = [str(place.checkpoint), str(place.root / "bolt" / "test" / "scratch"), "--out", str(out)]
        assert run_command(predict.main, [*arguments, "--cache-dir", str(place.cache)]) == 0
        with (out / "predictions.csv").open() as file:
            return list(csv.DictReader(file))

    on_cpu = predicted(tmp_path / "cpu")
    with pretend_gpu():
        on_gpu = predicted(tmp_path / "gpu")
    for expected, found in zip(on_cpu, on_gpu, strict=True):
        assert float(found["score"]) == pytest.approx(float(expected["score"]), rel=1e-3)
        assert found["class_name"] == expected["class_name"]


def test_what_is_exported_lies_on_the_cpu(place: Place) -> None:
    with pretend_gpu():
        detector = export.build_detector(load_model(place.checkpoint), cache_dir=place.cache)
        maps_BHW, scores_B = detector(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert {x.device.type for x in (maps_BHW, scores_B, *detector.parameters(), *detector.buffers())} == {
        "cpu"
    }


def test_train_runs_to_its_look_at_test(place: Place, tmp_path: Path) -> None:
    model = {"name": "squad", "width": 16, "num_residual_blocks": 1, "image_width": 4, "fsq_levels": [4, 4]}
    config = RunConfig.model_validate(
        {
            "model": model,
            "data": load_model(place.checkpoint).config.data.model_dump(by_alias=True),
            "train": {"epochs": 1, "batch_size": 4, "precision": "fp32"},
        }
    )
    file = tmp_path / "config.yaml"
    file.write_text(config.model_dump_json(by_alias=True))
    arguments = [str(file), "--test", "--out", str(tmp_path / "run"), "--cache-dir", str(place.cache)]
    with pretend_gpu():
        assert run_command(train.main, arguments) == 0
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert 0 <= record["metrics"]["test/pixel_aupro"] <= 1
    assert "pretended GPU" in record["environment"]["hardware"]
