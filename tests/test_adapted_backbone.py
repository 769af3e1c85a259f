"""`data.adapt_batchnorm`: a checkpoint carries its backbone's statistics, so that new images need no training data."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from small_checkpoint import CLASS_NAMES, SMALL_HVQ, write_checkpoint, write_dataset
from tiny_data import tiny_data

from hvqray import evaluate, export, predict
from hvqray.command_line import run_command
from hvqray.config.sections import RunConfig
from hvqray.data.images import load_image
from hvqray.data.prepare import prepare_data
from hvqray.training.checkpoint import HEADER_KEY, MODEL_FILE, load_model
from hvqray.training.communicator import SingleProcess
from hvqray.training.loop import run


@dataclass
class Place:
    """A checkpoint whose training data are gone: `root` is what they were, `elsewhere` a copy of them."""

    checkpoint: Path
    elsewhere: Path
    cache: Path
    features: np.ndarray
    """(12, C, h, w) float16 features of bolt's test images, good ones first, as they were when the model was trained."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("adapted")
    root, cache = folder / "parts", folder / "cache"
    write_dataset(root)
    checkpoint = write_checkpoint(folder / "best", root, cache, model=SMALL_HVQ, adapt_batchnorm=True)
    config = load_model(checkpoint).config.data.model_copy(update={"classes": ["bolt"]})
    # With the statistics of both classes, though there is but one.
    data = prepare_data(config, cache_dir=cache, batchnorm=load_model(checkpoint).batchnorm)
    rows = [row for name in ("val", "test") for row in data.splits[name].rows]
    shutil.move(root, folder / "elsewhere")
    shutil.rmtree(cache)
    return Place(
        checkpoint,
        folder / "elsewhere",
        folder / "new_cache",
        data.splits["test"].all_features[np.sort(rows)],
    )


def without_statistics(place: Place, folder: Path) -> Path:
    """The checkpoint as earlier versions wrote it."""
    with safe_open(place.checkpoint / MODEL_FILE, framework="pt") as file:
        header = file.metadata()[HEADER_KEY]
        tensors = {
            name: file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118 - not a mapping
            if not name.startswith("backbone_batchnorm.")
        }
    save_file(tensors, folder / MODEL_FILE, metadata={HEADER_KEY: header})
    return folder / MODEL_FILE


def test_a_detector_has_the_features_of_training(place: Place) -> None:
    detector = export.build_detector(load_model(place.checkpoint), cache_dir=place.cache)
    test = place.elsewhere / "bolt" / "test"
    paths = sorted((test / "good").iterdir()) + sorted((test / "scratch").iterdir())
    images = np.stack([load_image(path, 64).transpose(2, 0, 1) for path in paths])
    features = detector.backbone(torch.from_numpy(images)).half().numpy()
    np.testing.assert_allclose(features, place.features, rtol=5e-3, atol=5e-3)
    assert not place.cache.exists()


def test_predict_needs_no_training_data(place: Place, tmp_path: Path) -> None:
    arguments = [str(place.elsewhere / "bolt" / "test" / "good"), "--out", str(tmp_path / "out")]
    assert (
        run_command(predict.main, [str(place.checkpoint), "--cache-dir", str(place.cache), *arguments]) == 0
    )
    assert (tmp_path / "out" / "predictions.csv").read_text().count("\n") == 7


def test_an_older_checkpoint_asks_for_its_data(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = without_statistics(place, tmp_path)
    assert load_model(old).batchnorm is None
    images = str(place.elsewhere / "bolt" / "test" / "good")
    arguments = [str(old), images, "--out", str(tmp_path / "out"), "--cache-dir", str(place.cache)]
    assert run_command(predict.main, arguments) == 2
    assert "parts is not a folder" in capsys.readouterr().err


def test_evaluate_does_not_depend_on_the_training_images_at_hand(place: Place, tmp_path: Path) -> None:
    """Before, statistics were estimated anew on them."""
    other = tmp_path / "other"
    shutil.copytree(place.elsewhere, other)
    for name in CLASS_NAMES:
        for path in (other / name / "train" / "good").iterdir():
            Image.new("RGB", (70, 50), (9, 90, 200)).save(path)
    metrics = []
    for root in (place.elsewhere, other):
        out = tmp_path / f"{root.name}.json"
        arguments = [
            str(place.checkpoint),
            "--data",
            str(root),
            "--cache-dir",
            str(place.cache),
            "--out",
            str(out),
        ]
        assert run_command(evaluate.main, arguments) == 0
        metrics.append(json.loads(out.read_text())["metrics"])
    assert metrics[0] == metrics[1]


def test_training_stores_the_statistics_of_its_data(tmp_path: Path) -> None:
    batchnorm = {
        "bn1.running_mean": np.arange(3, dtype=np.float32),
        "bn1.running_var": np.ones(3, np.float32),
    }
    data = replace(tiny_data(), batchnorm=batchnorm)
    config = RunConfig.model_validate({"model": SMALL_HVQ, "train": {"epochs": 1, "precision": "fp32"}})
    for _ in run(config, data, folder=tmp_path, communicator=SingleProcess()):
        pass
    stored = load_model(tmp_path).batchnorm
    assert stored is not None
    assert stored.keys() == batchnorm.keys()
    assert all(np.array_equal(stored[name], value) for name, value in batchnorm.items())
