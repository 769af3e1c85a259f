"""The `data` section: dataset, backbone and validation split."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from hvqray.config.section import Section, Seed, distinct

BlockIndex = Annotated[int, Field(ge=0)]
LayoutName = Literal["auto", "mvtec_ad", "visa", "mpdd", "btad", "kolektor_sdd2", "real_iad", "folder"]
BitDepth = Literal[10, 12, 14]
_UNTOLD_PATCHES = re.compile(
    r"cait_|convit_|convmixer_|deepseek_vit|flexivit_|gemma\d+_vit|gmixer_|gmlp_|mixer_|qwen\d+_vit|resmlp_|test_vit"
)
"""The families of timm's backbones of disjoint patches whose names do not tell the patch."""


class BackboneConfig(Section):
    """The frozen, pretrained feature extractor."""

    name: str = "tf_efficientnet_lite0"
    """Any timm backbone that returns feature maps."""
    weights: str = "auto"
    """`auto` (the bundled package if it has this backbone, else the hub), `bundled`, `hub`, `random`, or a file (.safetensors, .pth)."""
    strides: list[Literal[2, 4, 8, 16, 32]] = Field(default=[2, 4, 8, 16], min_length=1)
    """Strides of the stages used (ignored by plain ViTs, whose blocks share one grid)."""
    grid_stride: Literal[4, 8, 16, 32] = 16
    """Pixels per location of the feature grid, to which the stages are resized. 8 outlines small defects better than 16, at four times the time and memory, and more time with HVQ-Trans (ignored by plain ViTs)."""
    blocks: list[BlockIndex | Annotated[list[BlockIndex], Field(min_length=1)]] | None = Field(
        default=None, min_length=1
    )
    """Blocks of a plain ViT that are used, counted from 0; those of an inner list are averaged. null: the last four."""
    padding: Literal["timm", "published"] = "timm"
    """How `tf_` backbones pad, which depends on the image size: as in timm, or fixed as in the HVQ-Trans code."""

    @field_validator("strides")
    @classmethod
    def _each_stride_once(cls, strides: list[int]) -> list[int]:
        return distinct(strides, "a stride")

    @field_validator("blocks")
    @classmethod
    def _each_block_once(cls, blocks: list[int | list[int]] | None) -> list[int | list[int]] | None:
        entries = [block if isinstance(block, list) else [block] for block in blocks or ()]
        flat = [block for entry in entries for block in entry]
        if len(set(flat)) != len(flat):
            raise ValueError(f"{blocks} names a block twice; keep one")
        return blocks

    def named_patch(self) -> int | None:
        """Side of a patch in pixels, where the name tells it."""
        named = re.search(r"patch(\d+)", self.name)
        return int(named[1]) if named else None

    def is_named_vit(self) -> bool:
        """Whether the name is that of a plain ViT: its patch is told, and coarser than the 4 pixels of a Swin."""
        return (self.named_patch() or 0) > 4

    def gives_patches(self) -> bool:
        """Whether each location of the grid is a patch of the image, disjoint from the others; told by the name alone, as timm takes seconds to import."""
        return self.is_named_vit() or _UNTOLD_PATCHES.match(self.name) is not None

    def size_unit(self) -> int:
        """What image sizes are multiples of, in pixels: the grid's stride, or the patch that a ViT's name tells."""
        patch = self.named_patch()
        return patch if patch is not None and self.is_named_vit() else self.grid_stride


class ValidationConfig(Section):
    """How a validation split is made where the dataset has none."""

    from_: Literal["test", "synthetic", "none"] = Field(default="test", alias="from")
    """Where `val` comes from. `test`: a stratified part of the test images; `synthetic`: held-out normal images, half of them with synthetic defects; `none`: the test images themselves, so that the model is selected on test."""
    fraction: Annotated[float, Field(gt=0, lt=1)] | None = Field(default=None, validate_default=True)
    """Share of the test images (`from: test`) or of the normal training images (`from: synthetic`) that become `val`; null: 0.5 of the test images, 0.2 of the training images."""
    seed: Seed = 0
    """Seed of the split."""
    group: str | None = None
    """Regular expression for file names (without suffix). Images for which its parenthesis (or else the whole match) has the same text are one group, such as crops of one photograph: they go to one side of the split, and the intervals of `confirm` resample them together. null: the groups that the layout defines (Real-IAD: the views of an object)."""

    @field_validator("fraction")
    @classmethod
    def _share_of_what(cls, fraction: float | None, info: ValidationInfo) -> float:
        """Never None in a configuration: what is written and hashed says the share itself."""
        if fraction is not None:
            return fraction
        # A model learns from the images that `synthetic` would take.
        return 0.2 if info.data.get("from_") == "synthetic" else 0.5

    @model_validator(mode="after")
    def _check_group(self) -> Self:
        if self.group is None:
            return self
        try:
            groups = re.compile(self.group).groups
        except re.error as error:
            raise ValueError(f"group: {self.group!r} is no regular expression ({error})") from None
        if groups > 1:
            raise ValueError(
                f"group: {self.group!r} has {groups} parentheses; keep one, write the others as (?:...)"
            )
        return self


class DataConfig(Section):
    """What is trained and measured on."""

    root: str | None = None
    """Folder of the dataset; null means the built-in synthetic set."""
    layout: LayoutName = "auto"
    """How the dataset is arranged on disk (docs/data.md); `auto` recognises it from the contents of the folder."""
    classes: list[str] | None = None
    """Product classes to use; null means all of them."""
    backbone: BackboneConfig = BackboneConfig()
    """The frozen feature extractor."""
    image_size: Annotated[int, Field(ge=32, le=2048)] = 224
    """Side of the square to which images and masks are resized, in pixels: a multiple of the backbone's `grid_stride`, or of a ViT's patch."""
    bit_depth: BitDepth | None = None
    """Bits of the camera that wrote grey images as 16-bit files: values are divided by 2 ** (bit_depth - 8), larger ones are an error. null: all 16 bits."""
    adapt_batchnorm: bool = False
    """Re-estimate the backbone's batch statistics once on the training images before features are cached."""
    validation: ValidationConfig = ValidationConfig()
    """How `val` is made."""

    @field_validator("classes")
    @classmethod
    def _each_class_once(cls, classes: list[str] | None) -> list[str] | None:
        return classes and distinct(classes, "a class")

    @field_validator("image_size")
    @classmethod
    def _grid_fills_the_image(cls, image_size: int, info: ValidationInfo) -> int:
        backbone = info.data.get("backbone")
        if backbone is not None and image_size % backbone.size_unit():
            raise ValueError(
                f"{image_size} is out of range; must be a multiple of {backbone.size_unit()} with backbone {backbone.name!r}"
            )
        return image_size
