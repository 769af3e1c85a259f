from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hvqray.config.run_config import WEIGHTS, load_run_config
from hvqray.config.sections import RunConfig
from hvqray.models.build import build_model
from hvqray.models.context import ModelContext
from hvqray.results.shared_checkpoint import copy_to_share, without_paths
from hvqray.training.checkpoint import load_model, save_model

CONTEXT = ModelContext(class_names=("bolt", "müll"), feature_channels=8, grid_size=(4, 4), image_size=32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secret-place")
    config = RunConfig.model_validate(
        {
            "model": {"name": "hvq", "width": 8, "feedforward_width": 8, "num_heads": 2, "codebook_size": 8},
            "data": {"root": str(folder / "parts"), "backbone": {"weights": str(folder / "lite0.pth")}},
        }
    )
    record = {
        "trial_id": "t0001",
        "selected_on_test": False,
        "metrics": {"val/image_auroc": 0.5, "val/bolt/image_f1max.threshold": 2.0},
        "environment": {"code_version": "1", "hardware": "2 cores of a processor"},
        "confirm": [{"trial_id": "t0001", "failed": {"t0001-s1": f"OSError: {folder}/parts/x.png"}}],
    }
    model = build_model(config.model, CONTEXT)
    assert isinstance(model, torch.nn.Module)
    save_model(folder, model, config=config, context=CONTEXT, record=record)
    return folder


def test_a_shared_checkpoint_names_no_place_and_no_machine_and_loads_as_the_model_it_is(
    checkpoint: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    copies = copy_to_share(checkpoint, tmp_path)
    assert {path.name for path in copies} == set(before)
    for path in copies:
        content = path.read_bytes()
        assert b"secret-place" not in content, path.name
        assert b"hardware" not in content, path.name
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before

    own = load_model(checkpoint)
    for shared in (load_model(tmp_path), load_model(tmp_path / "model.safetensors")):
        assert shared.context == CONTEXT
        assert shared.config.model == own.config.model
        assert shared.config.data.root == "parts"
        assert shared.config.data.backbone.weights == "lite0.pth"
        assert shared.metrics["metrics"] == own.metrics["metrics"]
        assert shared.metrics["environment"] == {"code_version": "1"}
        weights = own.model.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in shared.model.state_dict().items())
    assert load_run_config(tmp_path / "config.yaml").model == own.config.model


def test_what_is_not_there_is_left_out(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "config.yaml").write_bytes((checkpoint / "config.yaml").read_bytes())
    assert copy_to_share(tmp_path / "from", tmp_path) == [tmp_path / "config.yaml"]


def test_a_file_of_weights_is_named_not_located() -> None:
    weights = WEIGHTS
    config = {
        "data": {"root": "/secret/parts", "backbone": {"weights": "/secret/lite0.pth"}},
        "params": {weights: "/secret/lite0.pth", "train.lr": 0.1},
    }
    assert without_paths(config) == {
        "data": {"root": "parts", "backbone": {"weights": "lite0.pth"}},
        "params": {weights: "lite0.pth", "train.lr": 0.1},
    }
