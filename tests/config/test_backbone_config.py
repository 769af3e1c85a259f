"""Backbones and image sizes that do not go together are told of before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hvqray.config.data_sections import BackboneConfig
from hvqray.config.run_config import load_run_config
from hvqray.config.sweep_file import load_sweep, resolve_run_config
from hvqray.errors import InputError

Write = Callable[[str], Path]
DINOV2 = "vit_base_patch14_reg4_dinov2.lvd142m"


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("tf_efficientnet_b4", 16),
        (DINOV2, 14),
        ("vit_base_patch16_dinov3", 16),
        ("vit_base_patch32_224", 32),
        ("vit_small_patch8_224", 8),
        ("swin_tiny_patch4_window7_224", 16),
    ],
)
def test_unit_of_image_sizes(name: str, unit: int) -> None:
    assert BackboneConfig(name=name).size_unit() == unit
    fine = BackboneConfig(name=name, grid_stride=8)
    assert fine.size_unit() == (unit if fine.is_named_vit() else 8)


def test_a_plain_vit_is_known_by_its_name() -> None:
    assert BackboneConfig(name=DINOV2).is_named_vit()
    for name in ("resnet18", "swin_tiny_patch4_window7_224", "efficientvit_b0"):
        assert not BackboneConfig(name=name).is_named_vit()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (DINOV2, True),
        ("vit_small_patch8_224", True),
        ("flexivit_small", True),
        ("mixer_b16_224", True),
        ("tf_efficientnet_lite0", False),
        ("resnet18", False),
        ("swin_tiny_patch4_window7_224", False),
        ("vit_base_r50_s16_224", False),
        ("xcit_tiny_12_p16_224", False),
    ],
)
def test_which_backbones_give_disjoint_patches_of_the_image(name: str, expected: bool) -> None:
    assert BackboneConfig(name=name).gives_patches() is expected


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("data: {image_size: 224}\n")
    return path


def test_a_vit_s_patch_decides(config: Path) -> None:
    size = ["data.image_size=392"]
    assert load_run_config(config, [*size, f"data.backbone.name={DINOV2}"]).data.image_size == 392
    with pytest.raises(InputError) as caught:
        load_run_config(config, size)
    assert str(caught.value) == (
        "--set: data.image_size: 392 is out of range; must be a multiple of 16 with backbone 'tf_efficientnet_lite0'"
    )


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.backbone.blocks=[2, -1]", "data.backbone.blocks[1]: -1 is out of range; must be at least 0"),
        ("data.backbone.blocks=[2, [3, 2]]", "data.backbone.blocks: [2, [3, 2]] names a block twice"),
        ("data.backbone.blocks=[]", "data.backbone.blocks: [] is too short"),
        ("data.backbone.blocks=[[]]", "[] is too short"),
        ("data.backbone.padding=same", 'data.backbone.padding: "same" is not one of timm, published'),
    ],
)
def test_faults(config: Path, override: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        load_run_config(config, [override])
    assert told in str(caught.value)


SWEEP = """
method: grid
metric: {name: val/image_auroc, goal: maximize}
parameters: %s
"""


def test_blocks_can_be_searched(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP % "{data.backbone.blocks: {values: [[8, 9], [[2, 3], [6, 7]]]}}")
    run = resolve_run_config(load_sweep(path), {"data.backbone.blocks": [[2, 3], [6, 7]]})
    assert run.data.backbone.blocks == [[2, 3], [6, 7]]


def test_pairs_of_backbone_and_size_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    names = f"data.backbone.name: {{values: [{DINOV2}, resnet18]}}"
    path.write_text(SWEEP % f"{{{names}, data.image_size: {{values: [224, 392]}}}}")
    with pytest.raises(
        InputError, match="392 is out of range; must be a multiple of 16 with backbone 'resnet18'"
    ):
        load_sweep(path)
    path.write_text(SWEEP % f"{{{names}, data.image_size: {{values: [224, 448]}}}}")
    load_sweep(path)
