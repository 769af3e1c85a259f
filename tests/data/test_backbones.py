"""The frozen feature extractor, against the plain timm model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch.nn import functional as F

from hvqray.config.sections import BackboneConfig
from hvqray.data.backbone_weights import find_weights, read_weights
from hvqray.data.backbones import estimate_batchnorm, load_backbone
from hvqray.errors import InputError


def images(size: int, count: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def plain_model(config: BackboneConfig) -> torch.nn.Module:
    path = find_weights(config)
    assert path is not None
    overlay = {"state_dict": read_weights(path, config)}
    return timm.create_model(config.name, pretrained=True, pretrained_cfg_overlay=overlay).eval()


def test_bundled_weights_classify_photographs() -> None:
    model = plain_model(BackboneConfig())
    classes = timm.data.ImageNetInfo()
    for file, name in (("flower.jpg", "daisy"), ("china.jpg", "palace")):
        image_13HW = torch.from_numpy(load_sample_image(file).copy()).permute(2, 0, 1)[None].float()
        side = min(image_13HW.shape[2:])
        top, left = ((length - side) // 2 for length in image_13HW.shape[2:])
        square = image_13HW[:, :, top : top + side, left : left + side]
        resized = F.interpolate(square, (224, 224), mode="bicubic", antialias=True).clamp(0, 255)
        with torch.no_grad():
            label = int(model((resized / 255 - 0.5) / 0.5).argmax())
        assert classes.index_to_description(label).split(",")[0] == name


def test_features_are_those_of_the_plain_model() -> None:
    """The plain model's intermediate maps at strides 2 to 16, resized and concatenated; folding costs under 1e-4."""
    model = plain_model(BackboneConfig())
    x = images(224)
    with torch.no_grad():
        maps = model.forward_intermediates(
            (x / 255 - 0.5) / 0.5, indices=[0, 1, 2, 3], intermediates_only=True
        )
        stages = [F.interpolate(m, (14, 14), mode="bilinear", align_corners=True) for m in maps]
        expected = torch.cat(stages, dim=1)
    features = load_backbone(BackboneConfig(), 224)(x)
    assert features.shape == (2, 192, 14, 14)
    assert features.dtype == torch.float32
    assert (features - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_strides_choose_stages() -> None:
    all_stages = load_backbone(BackboneConfig(), 64)(images(64))
    deepest = load_backbone(BackboneConfig(strides=[16]), 64)(images(64))
    assert deepest.shape == (2, 112, 4, 4)
    torch.testing.assert_close(deepest, all_stages[:, -112:])
    assert load_backbone(BackboneConfig(strides=[32, 8]), 64)(images(64)).shape == (2, 40 + 320, 4, 4)


def test_always_in_eval_mode_and_frozen() -> None:
    backbone = load_backbone(BackboneConfig(), 64)
    before = backbone(images(64))
    assert not any(module.training for module in backbone.train().modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    torch.testing.assert_close(backbone(images(64)), before)
    torch.testing.assert_close(backbone(images(64))[:1], backbone(images(64)[:1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "strides", "size", "channels"),
    [
        ("resnet18", [4, 8, 16], 64, 64 + 128 + 256),
        ("convnext_atto", [8, 16], 64, 80 + 160),
        ("vit_tiny_patch16_224", [2, 4, 8, 16], 64, 4 * 192),
        ("vit_tiny_patch16_224", [16], 96, 4 * 192),
        ("swin_tiny_patch4_window7_224", [16], 224, 384),
    ],
)
def test_other_families(name: str, strides: list[int], size: int, channels: int) -> None:
    config = BackboneConfig.model_validate({"name": name, "weights": "random", "strides": strides})
    features = load_backbone(config, size)(images(size))
    assert features.shape == (2, channels, size // 16, size // 16)
    assert features.isfinite().all()
    assert features.std() > 0


def test_vit_features_are_its_last_blocks() -> None:
    config = BackboneConfig(name="vit_tiny_patch16_224", weights="random")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(config.name, features_only=False, img_size=64).eval()
    backbone = load_backbone(config, 64)
    # Weights are drawn in another order, so they are copied.
    state = {name.removeprefix("model."): value for name, value in backbone.network.state_dict().items()}
    model.load_state_dict(state, strict=False)
    x = images(64)
    with torch.no_grad():
        blocks = model.forward_intermediates((x / 255 - 0.5) / 0.5, indices=4, intermediates_only=True)
    assert len(blocks) == 4
    torch.testing.assert_close(backbone(x), torch.cat(blocks, dim=1), rtol=1e-4, atol=1e-4)


def test_random_weights_are_the_same_each_time() -> None:
    config = BackboneConfig(name="resnet18", weights="random", strides=[4])
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = load_backbone(config, 64)(images(64))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    torch.testing.assert_close(load_backbone(config, 64)(images(64)), first)


def test_estimated_batchnorm_makes_training_features_standard() -> None:
    """After adaptation, the first batch norm's input has its running mean and variance (checked by hand on the stem)."""
    config = BackboneConfig()
    batches = [images(64, 8, seed) // 4 for seed in range(3)]
    state = estimate_batchnorm(config, 64, batches)
    stem = plain_model(config).conv_stem
    with torch.no_grad():
        outputs = [stem((batch / 255 - 0.5) / 0.5) for batch in batches]
    mean = torch.stack([out.mean((0, 2, 3)) for out in outputs]).mean(0).numpy()
    variance = torch.stack([out.var((0, 2, 3)) for out in outputs]).mean(0).numpy()
    np.testing.assert_allclose(state["bn1.running_mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state["bn1.running_var"], variance, rtol=1e-4, atol=1e-6)
    adapted = load_backbone(config, 64, batchnorm=state)(batches[0])
    assert (adapted - load_backbone(config, 64)(batches[0])).abs().max() > 0.1


def test_batchnorm_of_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="another network"):
        load_backbone(BackboneConfig(), 64, batchnorm={"bn1.running_mean": np.zeros(3)})


def test_weights_from_a_file(tmp_path: Path) -> None:
    source = timm.create_model("resnet18", num_classes=7)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    torch.save({"state_dict": source.state_dict()}, tmp_path / "w.pth")
    features = [
        load_backbone(BackboneConfig(name="resnet18", weights=str(tmp_path / file), strides=[4, 8]), 64)(
            images(64)
        )
        for file in ("w.safetensors", "w.pth")
    ]
    torch.testing.assert_close(features[0], features[1])
    random = load_backbone(BackboneConfig(name="resnet18", weights="random", strides=[4, 8]), 64)(images(64))
    assert (features[0] - random).abs().max() > 0.01


def test_faults(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"data.backbone.name: timm has no backbone 'resnet81'; did you mean 'resnet"
    ):
        load_backbone(BackboneConfig(name="resnet81", weights="random"), 64)
    with pytest.raises(
        InputError,
        match=r"'convnext_atto' has no stage at stride 2, only at \[4, 8, 16, 32\]; use \[4, 8, 16\]",
    ):
        load_backbone(BackboneConfig(name="convnext_atto", weights="random"), 64)
    save_file(timm.create_model("resnet10t").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors: data.backbone.weights: holds no "):
        load_backbone(
            BackboneConfig(name="resnet18", weights=str(tmp_path / "other.safetensors"), strides=[4]), 64
        )
