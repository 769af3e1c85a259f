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

from hvqray.config.data_sections import BackboneConfig, DataConfig
from hvqray.data.backbone_padding import fix_padding
from hvqray.data.backbone_weights import find_weights, read_weights
from hvqray.data.backbones import estimate_batchnorm, feature_shape, load_backbone
from hvqray.data.tensors import features_key
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


def test_stages_are_resized_to_a_grid_of_the_stride_asked_for() -> None:
    coarse, fine = (
        load_backbone(BackboneConfig(strides=[8, 16], grid_stride=stride), 48)(images(48))
        for stride in (16, 8)
    )
    assert coarse.shape == (2, 40 + 112, 3, 3)
    assert fine.shape == (2, 40 + 112, 6, 6)
    # The stage of stride 16 lies on the coarse grid, and is resized to the fine one; that of stride 8 the other way round.
    resized = F.interpolate(coarse[:, 40:], (6, 6), mode="bilinear", align_corners=True)
    torch.testing.assert_close(fine[:, 40:], resized)
    resized = F.interpolate(fine[:, :40], (3, 3), mode="bilinear", align_corners=True)
    torch.testing.assert_close(coarse[:, :40], resized)
    assert load_backbone(BackboneConfig(strides=[8], grid_stride=8), 40)(images(40)).shape == (2, 40, 5, 5)


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
        ("tf_efficientnet_lite1", [8, 16], 64, 40 + 112),
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


VIT_TINY = {"name": "vit_tiny_patch16_224", "weights": "random"}


class TestVit:
    @pytest.mark.parametrize(
        ("name", "size", "side", "channels"),
        [
            ("vit_small_patch14_reg4_dinov2", 56, 4, 384),  # no multiple of 16
            ("vit_tiny_patch16_dinov3_qkvb", 64, 4, 192),  # rotary positions, and register tokens
            ("vit_small_patch8_224", 32, 4, 384),
        ],
    )
    def test_its_grid_is_that_of_its_patches(self, name: str, size: int, side: int, channels: int) -> None:
        backbone = load_backbone(BackboneConfig(name=name, weights="random", blocks=[1]), size)
        features = backbone(images(size))
        assert backbone.grid_size == (side, side)
        assert features.shape == (2, channels, side, side)
        assert features.std() > 0

    def test_the_grid_says_where_in_the_image(self) -> None:
        """What changes with the top left patch changes most at the grid's top left location, registers or not."""
        config = BackboneConfig(name="vit_small_patch14_reg4_dinov2", weights="random", blocks=[0])
        backbone = load_backbone(config, 56)
        x = images(56, 1)
        changed = x.clone()
        changed[:, :, :14, 14:28] = 255 - changed[:, :, :14, 14:28]
        difference_hw = (backbone(changed) - backbone(x)).norm(dim=1)[0]
        assert int(difference_hw.argmax()) == 1

    def test_blocks_are_concatenated_and_those_of_a_list_averaged(self) -> None:
        def features(blocks: list[int | list[int]]) -> torch.Tensor:
            return load_backbone(BackboneConfig(**VIT_TINY, blocks=blocks), 32)(images(32))

        one, three, four = (features([block]) for block in (1, 3, 4))
        torch.testing.assert_close(features([4, 1]), torch.cat([four, one], dim=1))
        torch.testing.assert_close(features([[1, 3], [4]]), torch.cat([(one + three) / 2, four], dim=1))
        assert (one - three).abs().max() > 0.1

    def test_blocks_and_padding_have_cached_features_of_their_own(self, tmp_path: Path) -> None:
        backbones = [{}, {"blocks": [1]}, {"blocks": [[1, 2]]}, {"padding": "published"}]
        keys = {
            features_key(
                DataConfig.model_validate({"backbone": VIT_TINY | fields}), "images", np.arange(3), tmp_path
            )
            for fields in backbones
        }
        assert len(keys) == len(backbones)

    def test_blocks_after_the_last_one_used_are_not_run(self) -> None:
        network = load_backbone(BackboneConfig(**VIT_TINY, blocks=[2]), 32).network
        assert len(network.model.blocks) == 3

    def test_eval_mode_and_determinism(self) -> None:
        backbone = load_backbone(BackboneConfig(**VIT_TINY), 32)
        assert not any(module.training for module in backbone.train().modules())
        again = load_backbone(BackboneConfig(**VIT_TINY), 32)
        assert torch.equal(backbone(images(32)), again(images(32)))

    def test_mean_and_deviation_are_the_model_s_own(self) -> None:
        """A grey of the model's mean is 0 after normalisation: DINOv2 has ImageNet's, the first ViTs have 0.5. White lies deviations above."""
        for name, mean, deviation in (
            ("vit_tiny_patch16_224", 0.5, 0.5),
            ("vit_small_patch14_reg4_dinov2", 0.485, 0.229),
        ):
            backbone = load_backbone(BackboneConfig(name=name, weights="random", blocks=[0]), 112)
            x = torch.full((1, 3, 112, 112), round(mean * 255), dtype=torch.uint8)
            assert backbone.normalize(x)[0, 0].abs().max() < 0.01
            white = backbone.normalize(torch.full_like(x, 255))[0, 0]
            torch.testing.assert_close(white, torch.full_like(white, (1 - mean) / deviation))

    def test_position_embedding_is_interpolated_to_the_image_size(self, tmp_path: Path) -> None:
        """Weights of 224 px used at 64 px give what timm's own resampling gives, not a random embedding."""
        source = timm.create_model("vit_tiny_patch16_224", num_classes=0)
        torch.nn.init.trunc_normal_(source.pos_embed, std=1.0)
        save_file(source.state_dict(), tmp_path / "w.safetensors")
        config = BackboneConfig(
            name="vit_tiny_patch16_224", weights=str(tmp_path / "w.safetensors"), blocks=[0]
        )
        source.set_input_size((64, 64))
        x = images(64)
        with torch.no_grad():
            [expected] = source.eval().forward_intermediates(
                (x / 255 - 0.5) / 0.5, indices=[0], intermediates_only=True
            )
        torch.testing.assert_close(load_backbone(config, 64)(x), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("fields", "size", "message"),
        [
            (
                {"name": "vit_small_patch14_reg4_dinov2"},
                60,
                r"data.image_size: 60 is no multiple of 14, .*; use 56 or 70",
            ),
            (VIT_TINY, 72, r"data.image_size: 72 is no multiple of 16, .*; use 64 or 80"),
            ({"name": "resnet18", "strides": [4]}, 72, r"data.image_size: 72 is no multiple of 16"),
            ({"name": "resnet18", "grid_stride": 8}, 60, r"data.image_size: 60 is no multiple of 8"),
            (
                VIT_TINY | {"blocks": [3, 12]},
                32,
                r"data.backbone.blocks: 'vit_tiny_patch16_224' has no block 12, only 0 to 11",
            ),
            (
                {"name": "resnet18", "strides": [4], "blocks": [1]},
                32,
                r"data.backbone.blocks: 'resnet18' is no plain ViT; remove blocks",
            ),
        ],
    )
    def test_faults(self, fields: dict[str, object], size: int, message: str) -> None:
        with pytest.raises(InputError, match=message):
            load_backbone(BackboneConfig.model_validate({"weights": "random", **fields}), size)


class TestPublishedPadding:
    def test_of_efficientnet_b4_differs_in_one_layer_at_224_px(self) -> None:
        network = timm.create_model("tf_efficientnet_b4", features_only=True, out_indices=[3]).eval()
        maps: dict[str, tuple[int, int]] = {}
        for name, module in network.named_modules():
            if type(module).__name__ == "Conv2dSame":
                module.register_forward_hook(
                    lambda conv, x, y, name=name: maps.__setitem__(name, (x[0].shape[-1], y.shape[-1]))
                )
        with torch.no_grad():
            network(torch.zeros(1, 3, 224, 224))
        maps_at_224 = dict(maps)
        assert fix_padding(network, image_size=380)
        differing = {}
        for name, (side, out) in maps_at_224.items():
            pad, convolution = network.get_submodule(name)
            kernel, stride = convolution.kernel_size[0], convolution.stride[0]
            total = (out - 1) * stride + kernel - side  # TensorFlow's rule at this very size
            if pad.padding != (total // 2, total - total // 2) * 2:
                differing[name] = pad.padding
        assert differing == {"blocks.2.0.conv_dw": (2, 2, 2, 2)}

    def test_at_the_native_size_it_changes_nothing_and_elsewhere_it_does(self) -> None:
        def difference(name: str, size: int) -> float:
            fields = {"name": name, "weights": "random", "strides": [8]}
            config, published = (
                BackboneConfig.model_validate(fields | {"padding": padding})
                for padding in ("timm", "published")
            )
            x = images(size, 1)
            expected = load_backbone(config, size)(x)
            return float((load_backbone(published, size)(x) - expected).abs().max() / expected.abs().max())

        assert difference("tf_efficientnet_lite0", 224) < 1e-4
        # At its own 260 px a layer of lite2 sees 65 locations a side, an odd number; here it sees 16.
        assert difference("tf_efficientnet_lite2", 64) > 0.01

    def test_a_network_without_such_padding_is_refused(self) -> None:
        config = BackboneConfig(name="resnet18", weights="random", strides=[4], padding="published")
        with pytest.raises(
            InputError, match=r"data.backbone.padding: 'resnet18' has no padding that depends"
        ):
            load_backbone(config, 32)


def test_random_weights_are_the_same_each_time() -> None:
    config = BackboneConfig(name="resnet18", weights="random", strides=[4])
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = load_backbone(config, 64)(images(64))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    torch.testing.assert_close(load_backbone(config, 64)(images(64)), first)


def test_other_weights_have_cached_features_of_their_own(tmp_path: Path) -> None:
    def key(weights: Path | str) -> str:
        backbone = {"name": "resnet18", "weights": str(weights)}
        config = DataConfig.model_validate({"backbone": backbone})
        return features_key(config, "images", np.arange(3), tmp_path / "cache")

    files = [tmp_path / name for name in ("one.pth", "copy.pth", "two.pth")]
    for file, content in zip(files, (b"one", b"one", b"more"), strict=True):
        file.write_bytes(content)
    one, copy, two = map(key, files)
    assert one == copy
    assert len({one, two, key("random")}) == 3
    files[0].write_bytes(b"one, trained on")
    assert key(files[0]) not in (one, two)


def test_batch_statistics_that_are_given_have_cached_features_of_their_own(tmp_path: Path) -> None:
    backbone = {"name": "resnet18", "weights": "random"}

    def key(batchnorm: dict[str, np.ndarray] | None, *, adapt: bool = True) -> str:
        config = DataConfig.model_validate({"backbone": backbone, "adapt_batchnorm": adapt})
        return features_key(config, "images", np.arange(3), tmp_path, batchnorm)

    ones, twos = ({"bn1.running_mean": np.full(64, value, np.float32)} for value in (1, 2))
    assert len({key(None), key(ones), key(twos), key(None, adapt=False)}) == 4
    assert key(ones) == key({name: value.copy() for name, value in ones.items()})


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


def test_weights_of_a_network_with_more_in_its_blocks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "b0.safetensors"
    state = timm.create_model("tf_efficientnet_lite0", num_classes=0).state_dict()
    head = {"classifier.weight": torch.zeros(1, 1), "blocks.0.0.some_index": torch.zeros(1)}
    save_file(state | head, path)
    config = BackboneConfig(name="tf_efficientnet_lite0", weights=str(path))
    load_backbone(config, 64)
    save_file(state | {"blocks.0.0.se.conv_reduce.weight": torch.zeros(1)}, path)
    with pytest.raises(
        InputError, match=r"holds 'blocks.0.0.se.conv_reduce.weight', for which .* has no place"
    ):
        load_backbone(config, 64)


def test_the_shape_of_features_is_told_without_any() -> None:
    config = BackboneConfig(name="resnet18", weights="random", strides=[4, 8], grid_stride=8)
    assert feature_shape(config, 64) == (64 + 128, 8, 8)
    with pytest.raises(InputError, match="no multiple of 8"):
        feature_shape(config, 60)
