"""`hvqray.export`: the file gives what PyTorch gives, for any number of images, or is not left behind."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from calibrated import calibrate
from PIL import Image

from hvqray import export
from hvqray.command_line import run_command
from hvqray.config.data_sections import BackboneConfig, DataConfig
from hvqray.config.model_sections import HvqConfig, SquadConfig
from hvqray.config.sections import RunConfig
from hvqray.data.backbones import load_backbone
from hvqray.metrics import THRESHOLD
from hvqray.models.batch import Batch
from hvqray.models.build import build_model
from hvqray.models.context import ModelContext
from hvqray.training.checkpoint import load_model, save_model

SIZE = 64
NAMES = ("cap", "long_bolt", "tile")
BACKBONE = BackboneConfig(weights="random", strides=[2, 4])
SMALL_HVQ = HvqConfig(width=16, num_heads=2, feedforward_width=32, codebook_size=8, hierarchy_depth=1)
SMALL_SQUAD = SquadConfig(
    name="squad",
    width=16,
    image_width=4,
    num_residual_blocks=1,
    map_distance="local_mahalanobis",
    map_norm_weight=[0.0, 1.0],
    feature_codes=6,
    map_code_weight=4.0,
    map_coarse_weight=0.5,
    map_from=["fine", "all"],
    score_from=["fine", "codes"],
    score_top_fraction=[0.3, 0.01],
    router="predicted",
)


def random_images(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def save_checkpoint(folder: Path, model_config: HvqConfig | SquadConfig) -> Path:
    """An untrained model that has seen a few images, with three real-looking pictures beside it."""
    context = ModelContext(NAMES, feature_channels=40, grid_size=(SIZE // 16, SIZE // 16), image_size=SIZE)
    torch.manual_seed(0)
    model = build_model(model_config, context)
    images = random_images(6)
    features = load_backbone(BACKBONE, SIZE)(images)
    batch = Batch(features, torch.arange(6) % len(NAMES), images)
    model.prepare(lambda: iter([batch]), seed=0)
    calibrate(model, lambda: iter([batch]))
    if model.map_choice.num_rules > 1:
        model.map_choice.choose([1, 0, 1])
        model.image_score.choose([3, 0, 1])
    config = RunConfig(model=model_config, data=DataConfig(image_size=SIZE, backbone=BACKBONE))
    record = {"metrics": {f"val/cap/{THRESHOLD}": 1.5}}
    save_model(folder, model, config=config, context=context, record=record)
    (folder / "maps").mkdir()
    for name in NAMES:
        pixels = random_images(1, seed=7)[0].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / "maps" / f"{name}_000_image.png")
        Image.fromarray(pixels).save(folder / "maps" / f"{name}_000_map.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HVQ checkpoint with its model.onnx, exported by the command."""
    folder = save_checkpoint(tmp_path_factory.mktemp("hvq"), SMALL_HVQ)
    assert run_command(export.main, [str(folder), "--format", "onnx"]) == 0
    return folder


def session(path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


class TestTheFile:
    def test_gives_what_backbone_and_model_give_for_any_number_of_images(self, checkpoint):
        runtime = session(checkpoint / "model.onnx")
        loaded = export.load_model(checkpoint)
        backbone = load_backbone(BACKBONE, SIZE)
        for count in (1, 2, 7):
            images, classes = random_images(count, seed=count + 10), torch.arange(count) % len(NAMES)
            expected = loaded.model.predict(Batch(backbone(images), classes, images))
            inputs = {"images": images.numpy(), "class_index": classes.numpy()}
            maps, scores = runtime.run(["maps", "scores"], inputs)
            assert maps.shape == (count, SIZE, SIZE)
            spread = float(expected.maps_BHW.max() - expected.maps_BHW.min())
            np.testing.assert_allclose(maps, expected.maps_BHW.numpy(), atol=1e-3 * spread)
            np.testing.assert_allclose(scores, expected.scores_B.numpy(), atol=1e-3 * spread)

    def test_the_class_matters_where_the_router_is_an_oracle(self, checkpoint):
        runtime = session(checkpoint / "model.onnx")
        images = random_images(1).numpy()
        one, other = (
            runtime.run(["maps"], {"images": images, "class_index": np.array([i])})[0] for i in (0, 1)
        )
        assert np.abs(one - other).max() > 0

    def test_says_what_its_user_must_know(self, checkpoint):
        metadata = session(checkpoint / "model.onnx").get_modelmeta().custom_metadata_map
        assert json.loads(metadata["class_names"]) == list(NAMES)
        assert json.loads(metadata["thresholds"]) == {"cap": 1.5, "long_bolt": None, "tile": None}
        assert RunConfig.model_validate_json(metadata["config"]).model == SMALL_HVQ
        assert metadata["selected_on_test"] == "false"

    def test_says_that_its_model_was_selected_on_test(self, checkpoint, tmp_path, monkeypatch, capsys):
        chosen = shutil.copytree(checkpoint, tmp_path / "chosen")
        record = json.loads((chosen / "metrics.json").read_text())
        (chosen / "metrics.json").write_text(json.dumps({**record, "selected_on_test": True}))
        assert export._metadata(load_model(chosen))["selected_on_test"] == "true"

        def write(detector, loaded, out, **options):
            out.write_bytes(b"onnx")
            return export.Difference(0.0, 0.0, num_random=4, num_real=3)

        monkeypatch.setattr(export, "export_onnx", write)
        for folder, marked in ((checkpoint, False), (chosen, True)):
            assert run_command(export.main, [str(folder), "--out", str(tmp_path / "m.onnx")]) == 0
            line = capsys.readouterr().out
            assert line.endswith("; the model was selected on test\n") == marked

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "model_config",
        [
            pytest.param(
                SMALL_HVQ.model_copy(update={"quantizer": "fsq", "router": "predicted"}), id="hvq-fsq"
            ),
            pytest.param(
                SMALL_SQUAD,
                id="squad",
            ),
        ],
    )
    def test_of_other_models_takes_images_alone(self, tmp_path, model_config):
        folder = save_checkpoint(tmp_path, model_config)
        assert run_command(export.main, [str(folder)]) == 0
        assert [one.name for one in session(folder / "model.onnx").get_inputs()] == ["images"]


class TestTheCheck:
    def test_is_reported_with_its_images(self, checkpoint, tmp_path, capsys, monkeypatch):
        reference = (checkpoint / "model.onnx").read_bytes()
        monkeypatch.setattr(export, "_write", lambda detector, loaded, path: path.write_bytes(reference))
        out = tmp_path / "other.onnx"
        assert run_command(export.main, [str(checkpoint / "model.safetensors"), "--out", str(out)]) == 0
        assert out.is_file()
        assert "4 random and 3 real images: maps " in capsys.readouterr().out

    def test_real_images_come_with_their_class(self, checkpoint):
        images, classes, num_real = export.check_images(export.load_model(checkpoint), checkpoint / "maps")
        assert num_real == 3
        assert images.shape == (7, 3, SIZE, SIZE)
        assert classes[-3:].tolist() == [0, 1, 2]

    @pytest.mark.parametrize("damage", [0.01, float("nan")])
    def test_a_file_that_differs_is_not_left(self, checkpoint, tmp_path, monkeypatch, capsys, damage):
        reference = (checkpoint / "model.onnx").read_bytes()
        monkeypatch.setattr(export, "_write", lambda detector, loaded, path: path.write_bytes(reference))
        forward = export.Detector.forward

        def damaged(self, *inputs):
            maps, scores = forward(self, *inputs)
            maps[-1, 5, 5] += damage * (maps.max() - maps.min())
            return maps, scores

        monkeypatch.setattr(export.Detector, "forward", damaged)
        out = tmp_path / "model.onnx"
        out.write_text("before")
        assert run_command(export.main, [str(checkpoint), "--out", str(out)]) == 2
        assert out.read_text() == "before"
        assert list(tmp_path.iterdir()) == [out]
        error = capsys.readouterr().err
        assert "not written" in error
        assert "--tolerance 0.001" in error

    def test_real_images_are_compared_too(self, checkpoint, tmp_path, monkeypatch):
        reference = (checkpoint / "model.onnx").read_bytes()
        monkeypatch.setattr(export, "_write", lambda detector, loaded, path: path.write_bytes(reference))
        (real,) = random_images(1, seed=7)
        forward = export.Detector.forward

        def damaged(self, images, *others):
            maps, scores = forward(self, images, *others)
            is_real = (images == real).flatten(1).all(1)
            maps[is_real, 5, 5] += maps.max() - maps.min()
            return maps, scores

        monkeypatch.setattr(export.Detector, "forward", damaged)
        assert run_command(export.main, [str(checkpoint), "--out", str(tmp_path / "model.onnx")]) == 2
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("found", [(0.02, 0.01), (0.01, 0.02)], ids=["maps", "scores"])
    def test_a_larger_tolerance_accepts_it(self, checkpoint, tmp_path, monkeypatch, found):
        monkeypatch.setattr(export, "_largest_differences", lambda *given: found)
        monkeypatch.setattr(export, "_write", lambda detector, loaded, path: path.write_text("model"))
        arguments = [str(checkpoint), "--out", str(tmp_path / "m.onnx"), "--tolerance"]
        assert run_command(export.main, [*arguments, "0.015"]) == 2
        assert run_command(export.main, [*arguments, "0.03"]) == 0


class TestFaults:
    def test_a_network_that_fixes_the_number_of_images(self, checkpoint, tmp_path, monkeypatch, capsys):
        def fixed(self, images, class_index=None):
            return images.float().mean(1), torch.zeros(len(images))

        monkeypatch.setattr(export.Detector, "forward", fixed)
        assert run_command(export.main, [str(checkpoint), "--out", str(tmp_path / "m.onnx")]) == 2
        assert "fix the number of images to 2" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_a_network_that_cannot_be_exported(self, checkpoint, tmp_path, monkeypatch, capsys):
        def by_value(self, images, class_index=None):
            return (images.float().mean(1), class_index) if images.sum().item() > 3 else (images, class_index)

        monkeypatch.setattr(export.Detector, "forward", by_value)
        assert run_command(export.main, [str(checkpoint), "--out", str(tmp_path / "m.onnx")]) == 2
        error = capsys.readouterr().err
        assert "'tf_efficientnet_lite0'" in error
        assert "cannot be exported" in error
        assert error.count("\n") == 1

    def test_the_extra_is_missing(self, checkpoint, monkeypatch, capsys):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else name)
        assert run_command(export.main, [str(checkpoint)]) == 2
        assert "--format: onnx needs onnxscript; pip install 'hvqray[export]'" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "fault"),
        [
            (["--out", "no/such/folder/m.onnx"], "--out: its folder does not exist"),
            (["--tolerance", "0"], "--tolerance: 0.0 must be above 0"),
            (["--tolerance", "nan"], "--tolerance: nan must be above 0"),
        ],
    )
    def test_arguments(self, checkpoint, capsys, arguments, fault):
        assert run_command(export.main, [str(checkpoint), *arguments]) == 2
        error = capsys.readouterr().err
        assert fault in error
        assert error.count("\n") == 1

    def test_a_folder_where_a_file_is_meant(self, checkpoint, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(export, "load_model", None)  # told before any work
        assert run_command(export.main, [str(checkpoint), "--out", str(tmp_path)]) == 2
        told = f"hvqray: error: --out {tmp_path}: cannot be written (it is a folder); name another file\n"
        assert capsys.readouterr().err == told

    def test_no_checkpoint(self, tmp_path, capsys):
        assert run_command(export.main, [str(tmp_path)]) == 2
        assert "no checkpoint there" in capsys.readouterr().err
