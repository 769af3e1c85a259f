"""`hvqray.convert`, from a published-style file to maps, metrics and further training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from published_reference import PublishedStyle, published_state
from small_checkpoint import CLASS_NAMES, write_dataset
from torch import Tensor

from hvqray import convert, evaluate, train
from hvqray.command_line import run_command
from hvqray.data.backbones import load_backbone
from hvqray.data.prepare import prepare_data
from hvqray.models.batch import Batch
from hvqray.training.checkpoint import load_model

LITE = ["--backbone", "tf_efficientnet_lite0"]


def published_file(folder: Path, **sizes: object) -> tuple[PublishedStyle, Path]:
    torch.manual_seed(0)
    model = PublishedStyle(**sizes).eval()
    torch.save({"epoch": 1, "state_dict": published_state(model)}, folder / "ckpt.pth.tar")
    return model, folder / "ckpt.pth.tar"


def fault(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run_command(convert.main, [str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("hvqray: error: ")


def test_a_converted_model_is_evaluated_and_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, cache, out = tmp_path / "data #1", tmp_path / "cache", tmp_path / "out"
    write_dataset(root)
    theirs, file = published_file(tmp_path, channels=192, grid=(4, 4), classes=2, depth=2)
    labelled = CLASS_NAMES[::-1]  # published label 0 is the class that comes second by name
    arguments = [str(file), "--out", str(out), "--classes", *labelled, "--data", str(root), *LITE]
    shorter = ["--set", "train.epochs=1", "--set", "train.batch_size=4"]
    assert run_command(convert.main, [*arguments, *shorter]) == 0
    assert capsys.readouterr().out == f"checkpoint: {out} (2 classes, width 16; backbone weights: auto)\n"

    loaded = load_model(out)
    assert loaded.config.data.root == str(root)
    assert loaded.context.class_names == CLASS_NAMES
    assert loaded.config.data.backbone.padding == "published"
    assert loaded.metrics["selected_on_test"] is True
    assert (loaded.config.train.lr, loaded.config.train.gradient_clip) == (1e-4, 0.1)
    data = prepare_data(loaded.config.data, cache_dir=cache)
    val = data.splits["val"]
    features = torch.from_numpy(np.array(val.features(np.arange(len(val))))).float()
    labels = torch.from_numpy(val.class_index)
    maps = loaded.model.predict(Batch(features, labels)).maps_BHW
    for i in (0, len(val) - 1):
        expected = theirs.map_of(features[i], labelled.index(CLASS_NAMES[int(labels[i])]))
        torch.testing.assert_close(maps[i], expected, rtol=1e-5, atol=1e-4)

    place = ["--cache-dir", str(cache)]
    assert run_command(evaluate.main, [str(out), "--split", "val", *place]) == 0
    assert "selected on test" in capsys.readouterr().out
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    assert run_command(train.main, [str(out / "config.yaml"), "--out", str(out), *place]) == 0
    after = load_model(out).model.state_dict()
    moved = (after["network.projection.weight"] - before["network.projection.weight"]).abs()
    assert 0 < moved.max() < 0.01  # a few steps of 1e-4 from the converted weights


def package_names(network: torch.nn.Module) -> dict[str, Tensor]:
    """A timm EfficientNet's tensors under the names of the published code's backbone."""
    top = {
        "conv_stem": "_conv_stem",
        "bn1": "_bn0",
        "conv_head": "_conv_head",
        "bn2": "_bn1",
        "classifier": "_fc",
    }
    both = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
    plain = both | {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    expanding = both | {
        "conv_pw": "_expand_conv",
        "bn1": "_bn0",
        "conv_dw": "_depthwise_conv",
        "bn2": "_bn1",
        "conv_pwl": "_project_conv",
        "bn3": "_bn2",
    }
    numbers: dict[str, int] = {}
    state = network.state_dict()
    renamed = {}
    for name, tensor in state.items():
        layer, leaf = name.rsplit(".", 1)
        if not layer.startswith("blocks."):
            renamed[f"enc.{top[layer]}.{leaf}"] = tensor
            continue
        _, stage, index, inner = layer.split(".", 3)
        number = numbers.setdefault(f"{stage}.{index}", len(numbers))
        layers = expanding if f"blocks.{stage}.{index}.conv_pwl.weight" in state else plain
        renamed[f"enc._blocks.{number}.{layers[inner]}.{leaf}"] = tensor
    return renamed


def test_the_backbone_comes_along_with_its_drifted_statistics(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_b0").eval()
    for name, buffer in network.named_buffers():
        if "running_" in name:
            buffer.uniform_(0.5, 1.5)
    theirs = PublishedStyle(channels=16 + 24 + 40 + 112, grid=(4, 4), classes=2, depth=1)
    state = published_state(theirs) | {f"module.{n}": t for n, t in package_names(network).items()}
    torch.save({"state_dict": state}, tmp_path / "ckpt.pth")
    out = tmp_path / "out #1"
    arguments = [str(tmp_path / "ckpt.pth"), "--out", str(out), "--classes", "a", "b"]
    arguments += ["--backbone", "tf_efficientnet_b0"]
    assert run_command(convert.main, arguments) == 0

    config = load_model(out).config.data
    assert Path(config.backbone.weights) == out / "backbone.safetensors"
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(network.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        stage = network.forward_intermediates(
            (images / 255 - mean) / std, indices=[0], intermediates_only=True
        )
    grid = torch.nn.functional.interpolate(stage[0], (4, 4), mode="bilinear", align_corners=True)
    features = load_backbone(config.backbone, 64)(images)
    torch.testing.assert_close(features[:, :16], grid, rtol=1e-3, atol=1e-3)


def test_what_does_not_fit_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, file = published_file(tmp_path, classes=2, depth=1)
    out = ["--out", tmp_path / "out"]
    assert fault(capsys, file, *out) == (
        "--classes: MVTec AD, the default, has 15 classes, but the checkpoint has 2; name them in the order of its labels"
    )
    assert fault(capsys, file, *out, "--classes", "a").startswith(
        "--classes: 1 named, but the checkpoint has 2;"
    )
    assert fault(capsys, file, *out, "--classes", "a", "a") == "--classes: a a names a class twice"
    assert not (tmp_path / "out").exists()
    named = [file, *out, "--classes", "a", "b"]
    assert fault(capsys, *named, "--set", "model.width=24").endswith(
        "model: an override changes the shapes that the weights fix; leave it out"
    )
    assert "did you mean 'ot_weight'" in fault(capsys, *named, "--set", "model.ot_wight=0")
    assert fault(capsys, tmp_path / "absent.pth", *out).startswith(f"{tmp_path / 'absent.pth'}: no such file")
    file.write_bytes(b"x")
    assert fault(capsys, *named).startswith(f"{file}: cannot be read as a checkpoint")


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_what_is_refused_leaves_a_checkpoint_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    theirs = PublishedStyle(channels=192, grid=(4, 4), classes=2, depth=1)
    file, out = tmp_path / "ckpt.pth", tmp_path / "out"
    torch.save({"state_dict": published_state(theirs)}, file)
    place = ["--out", str(out), "--classes", "a", "b", *LITE]
    assert run_command(convert.main, [str(file), *place]) == 0
    before = contents(out)
    network = package_names(timm.create_model("tf_efficientnet_b0"))
    with_backbone = published_state(theirs) | {f"module.{name}": tensor for name, tensor in network.items()}
    torch.save({"state_dict": with_backbone}, file)
    fitting = ["--backbone", "tf_efficientnet_b0"]
    other = ["--backbone", "tf_efficientnet_b1"]
    for wrong in ([*fitting, "--set", "train.lr=no"], [*fitting, "--set", "model.width=24"], other):
        fault(capsys, file, *place, *wrong)
        assert contents(out) == before


def test_a_checkpoint_of_15_classes_has_mvtec_s(tmp_path: Path) -> None:
    _, file = published_file(tmp_path, classes=15, depth=1, codes=3)
    options = ["--set", "model.ot_weight=0"]
    assert run_command(convert.main, [str(file), "--out", str(tmp_path / "out"), *options]) == 0
    loaded = load_model(tmp_path / "out")
    assert loaded.context.class_names[:3] == ("bottle", "cable", "capsule")
    assert len(loaded.context.class_names) == 15
    assert loaded.config.model.ot_weight == 0
