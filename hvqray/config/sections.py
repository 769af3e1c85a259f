"""The typed sections of a run's configuration; one run is fully described by a `RunConfig`.

Every field has a one-sentence docstring with its unit, and its range. Sections are frozen and refuse keys
they do not know. A parameter of a search is named by the dotted path of the field it sets
(`model.codebook_size`, `train.lr`), so a rename here breaks users' sweep files.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BlockIndex = Annotated[int, Field(ge=0)]
# Generators of random numbers take less than 2**32; a resumed search adds its trials to the seed.
Seed = Annotated[int, Field(ge=0, lt=2**31)]
LayoutName = Literal["auto", "mvtec_ad", "visa", "mpdd", "btad", "kolektor_sdd2", "real_iad", "folder"]
FsqLevels = Annotated[list[Annotated[int, Field(ge=3, le=64)]], Field(min_length=1, max_length=10)]
QuantizerName = Literal["vq", "fsq", "none"]
BitDepth = Literal[10, 12, 14]


MOST_CODES = 2**16
"""Of a learned codebook that grew from level to level."""


def _one_or_list(value: Any) -> str:
    return "list" if isinstance(value, list) else "one"


# Told apart by what was given, so that a fault is told of that form alone.
LevelQuantizers = Annotated[
    Annotated[QuantizerName, Tag("one")] | Annotated[list[Literal["vq", "fsq"]], Tag("list")],
    Discriminator(_one_or_list),
]
LevelSizes = Annotated[
    Annotated[PositiveInt, Tag("one")] | Annotated[list[PositiveInt], Tag("list")],
    Discriminator(_one_or_list),
]


Fractions = Annotated[
    Annotated[Fraction, Tag("one")] | Annotated[list[Fraction], Field(min_length=1), Tag("list")],
    Discriminator(_one_or_list),
]


def _distinct(values: list[Any], what: str) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError(f"{values} names {what} twice; keep one")
    return values


class Section(BaseModel):
    """A frozen group of fields that refuses unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=()
    )


class QuantizerFields(Section):
    """What both models say about their discrete codes."""

    quantizer: LevelQuantizers = "vq"
    """`vq` learns codebooks by EMA, `fsq` rounds to fixed levels, `none` leaves the latents continuous (a baseline); or a list, one for each level from the top."""
    codebook_size: LevelSizes = 128
    """Codes per codebook, K; or a list, one for each level from the top, `top, q{N-1}, ..., q0` (used with `quantizer: vq`, at levels that have it)."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay per step of the codebooks' moving averages (used with `quantizer: vq`)."""
    commitment_weight: NonNegativeFloat = 0.25
    """Weight of the commitment term, summed over levels (used with `quantizer: vq`)."""
    codebook_init: Literal["kmeans", "normal"] = "kmeans"
    """Codes start at k-means centres of training tokens, or at N(0, 1) draws (used with `quantizer: vq`)."""
    revive_dead_codes: bool = False
    """Let codes unused for `revive_after` steps split the busiest codes of the step (used with `quantizer: vq`)."""
    revive_after: PositiveInt = 100
    """Steps without use after which a code counts as dead (used with `revive_dead_codes`)."""
    fsq_levels: FsqLevels = [8, 5, 5, 5]
    """Levels per FSQ dimension, each at least 3 (used with `quantizer: fsq`)."""


class ErrorMapFields(Section):
    """How both models turn the error of the reconstructed features into a map, and the map into an image's score."""

    map_distance: Literal["l2", "mahalanobis", "local_mahalanobis"] = "l2"
    """Size of a location's error: its norm, or its distance from normal images' errors, of all locations or of its own."""
    map_shrinkage: Fraction | Literal["oas"] = "oas"
    """Share of the class's covariance in each location's own, or OAS's estimate of the best (with `local_mahalanobis`)."""
    map_coarse_weight: NonNegativeFloat = 0.0
    """Weight in the map of a second distance, of errors averaged over 3 x 3 locations first (7 x 7 with `grid_stride: 8`; not with `map_distance: l2`)."""
    map_norm_weight: NonNegativeFloat = 0.0
    """Weight in the map of the error's plain norm beside its distance (not with `map_distance: l2`, which is that norm)."""
    score_from: Literal["map", "coarse", "both"] = "map"
    """What the image score is taken from: the map, the distance of errors averaged over 3 x 3 locations (7 x 7 with `grid_stride: 8`), or that plus the plain one."""
    score_pool_size: PositiveInt = 16
    """Side of the average-pooling window (pixels, stride 1) before the image score is taken."""
    score_top_fraction: Fractions = 0.0
    """Image score: mean of this share of the pooled map's highest values; 0 takes the maximum (HVQ-Trans). Of a list each class that the router tells apart has the share that is best on `val`."""

    def score_top_fractions(self) -> list[float]:
        """The shares that the image score may be taken from."""
        given = self.score_top_fraction
        return given if isinstance(given, list) else [given]

    @field_validator("score_top_fraction")
    @classmethod
    def _each_share_once(cls, given: float | list[float]) -> float | list[float]:
        return _distinct(given, "a share") if isinstance(given, list) else given

    @model_validator(mode="after")
    def _is_beside_a_distance(self) -> ErrorMapFields:
        if self.map_distance == "l2":
            for field in ("map_coarse_weight", "map_norm_weight", "score_from"):
                value, default = getattr(self, field), type(self).model_fields[field].default
                if value != default:
                    raise ValueError(
                        f"{field}: {value} needs map_distance mahalanobis or local_mahalanobis; with l2 leave it at {default}"
                    )
        return self


class HvqConfig(ErrorMapFields, QuantizerFields):
    """HVQ-Trans: a transformer that reconstructs features from a hierarchy of quantised latents."""

    name: Literal["hvq"] = "hvq"
    """Which model."""
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 128
    """Embedding width D; the paper's is 256."""
    hierarchy_depth: Annotated[int, Field(ge=1, le=8)] = 2
    """Encoder layers = decoder layers = quantised lower levels, N; the paper's is 4."""
    codebook_growth: PositiveInt = 1
    """Codes of each lower level over those of the level above it, beside one `codebook_size` for the top; the paper has as many at all (used with `quantizer: vq`)."""
    num_heads: PositiveInt = 8
    """Attention heads; must divide `width`."""
    feedforward_width: PositiveInt = 512
    """Hidden width of the feed-forward layers; the paper's is 1024."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout probability in attention and feed-forward layers."""
    standardize_features: bool = True
    """Reconstruct features scaled to zero mean and unit variance per channel (training images); the paper does not."""
    feature_noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise on the input features in training, in units of the channel's own."""
    router: Literal["oracle", "predicted", "none"] = "oracle"
    """What picks codebooks and output expert: the true class, the nearest class prototype, or nothing (one shared set)."""
    ot_weight: NonNegativeFloat = 80.0
    """Weight of the OT cost in the anomaly map (used with `quantizer: vq`)."""
    ot_levels: list[Annotated[int, Field(ge=0)]] = [0]
    """Lower levels i at which OT is scored, q_i; the paper scores [0] (used with `quantizer: vq`)."""

    @field_validator("ot_levels")
    @classmethod
    def _each_level_once(cls, levels: list[int]) -> list[int]:
        return _distinct(levels, "a level")

    @model_validator(mode="after")
    def _check(self) -> HvqConfig:
        if self.width % self.num_heads:
            raise ValueError(f"num_heads: {self.num_heads} does not divide width {self.width}")
        names = self.level_names()
        for field in ("quantizer", "codebook_size"):
            value = getattr(self, field)
            if isinstance(value, list) and len(value) != len(names):
                raise ValueError(
                    f"{field}: a list of {len(value)} does not go with hierarchy_depth {self.hierarchy_depth};"
                    f" give {len(names)}, for {', '.join(names)}"
                )
        if isinstance(self.codebook_size, list) and self.codebook_growth > 1:
            raise ValueError(
                f"codebook_growth: {self.codebook_growth} does not go with a list of codebook_size; give one of them"
            )
        if self.codebook_growth > 1 and "vq" in self.quantizers() and max(self.codebook_sizes()) > MOST_CODES:
            raise ValueError(
                f"codebook_growth: {self.codebook_growth} makes {max(self.codebook_sizes())} codes at q0, more than"
                f" {MOST_CODES}; lower it, codebook_size or hierarchy_depth"
            )
        if any(level >= self.hierarchy_depth for level in self.ot_levels):
            raise ValueError(
                f"ot_levels: {self.ot_levels} must lie below hierarchy_depth {self.hierarchy_depth}"
            )
        if "vq" in self.quantizers() and self.ot_weight > 0:
            kinds = dict(zip(names, self.quantizers(), strict=True))
            for level in self.ot_levels:
                if (kind := kinds[f"q{level}"]) != "vq":
                    raise ValueError(
                        f"ot_levels: {self.ot_levels} names q{level}, whose quantizer is {kind}; name levels with vq, or []"
                    )
        return self

    def level_names(self) -> list[str]:
        """The N + 1 levels of the hierarchy, from the top: `top`, `q{N-1}`, ..., `q0`."""
        return ["top", *(f"q{i}" for i in reversed(range(self.hierarchy_depth)))]

    def quantizers(self) -> list[QuantizerName]:
        """The quantiser of each of `level_names`."""
        if isinstance(self.quantizer, list):
            return [*self.quantizer]
        return [self.quantizer] * (self.hierarchy_depth + 1)

    def codebook_sizes(self) -> list[int]:
        """The `codebook_size` of each of `level_names`; of use at those with `vq`."""
        if isinstance(self.codebook_size, list):
            return self.codebook_size
        return [self.codebook_size * self.codebook_growth**i for i in range(self.hierarchy_depth + 1)]


class SquadConfig(ErrorMapFields, QuantizerFields):
    """SQUAD: a hierarchical FSQ autoencoder of features and image, with a PatchGAN discriminator (this project's design)."""

    name: Literal["squad"]
    """Which model."""
    quantizer: QuantizerName = "fsq"
    """`fsq` is SQUAD's own; `vq` and `none` are ablations."""
    codebook_size: PositiveInt = 128
    """Codes per codebook, K, at every level (used with `quantizer: vq`)."""
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 128
    """Channels D of the encoder and decoder blocks."""
    num_residual_blocks: Annotated[int, Field(ge=0, le=8)] = 2
    """Residual convolution blocks in the encoder and in the feature decoder, each."""
    router: Literal["oracle", "predicted", "none"] = "none"
    """What picks the class's normal errors that a map is judged by: the true class, the nearest prototype, or nothing."""
    hierarchy: Literal["resolutions", "residual"] = "resolutions"
    """Coarse codes condition finer ones at halved resolutions (as VQ-VAE-2), or residual quantisation on one grid."""
    hierarchy_depth: Annotated[int, Field(ge=1, le=4)] = 2
    """Number of quantised levels."""
    standardize_features: bool = True
    """Reconstruct features scaled to zero mean and unit variance per channel (training images)."""
    feature_noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise on the input features in training, in units of the channel's own."""
    image_head: bool = True
    """Whether a second decoder head reconstructs the image; without it there is no discriminator either."""
    image_scale: Literal[1, 2, 4] = 4
    """The image head works at image size divided by this."""
    image_width: Annotated[int, Field(ge=4, multiple_of=4)] = 32
    """Channels of the image head's last block and of the discriminator's first."""
    discriminator: bool = True
    """Whether a PatchGAN discriminator judges the reconstructed image."""
    discriminator_start: Fraction = 0.3
    """Share of all training steps after which the discriminator joins in."""
    feature_mse_weight: NonNegativeFloat = 1.0
    """Weight of the features' mean squared error in the loss."""
    feature_cosine_weight: NonNegativeFloat = 1.0
    """Weight of the features' cosine distance in the loss."""
    image_l1_weight: NonNegativeFloat = 1.0
    """Weight of the image's absolute error in the loss."""
    image_ssim_weight: NonNegativeFloat = 0.5
    """Weight of the image's 1 - SSIM in the loss."""
    adversarial_weight: NonNegativeFloat = 0.1
    """Weight of the generator's adversarial term, on top of the adaptive one."""
    map_cosine_weight: NonNegativeFloat = 1.0
    """Weight of the features' cosine distance in the anomaly map."""
    map_l2_weight: NonNegativeFloat = 1.0
    """Weight of the size of the features' error (`map_distance`) in the anomaly map."""
    map_image_weight: NonNegativeFloat = 0.1
    """Weight of the image's SSIM error in the anomaly map."""
    map_discriminator_weight: NonNegativeFloat = 0.1
    """Weight of the discriminator's feature-matching distance in the anomaly map."""
    smoothing_sigma: NonNegativeFloat = 4.0
    """Standard deviation of the Gaussian that smooths the anomaly map, in pixels; 0 switches it off."""

    @model_validator(mode="after")
    def _check(self) -> SquadConfig:
        weights = [self.map_cosine_weight, self.map_l2_weight]
        if self.image_head:
            weights += [self.map_image_weight, self.map_discriminator_weight * self.discriminator]
        if not any(weights):
            raise ValueError(
                "map_cosine_weight: all parts of the anomaly map that exist have weight 0; raise one"
            )
        if self.map_l2_weight == 0 and self.map_distance != "l2":
            raise ValueError(
                f"map_distance: {self.map_distance} counts for nothing with map_l2_weight 0; raise that, or take l2"
            )
        return self


ModelConfig = Annotated[HvqConfig | SquadConfig, Field(discriminator="name")]


class BackboneConfig(Section):
    """The frozen, pretrained feature extractor."""

    name: str = "tf_efficientnet_lite0"
    """Any timm backbone that gives feature maps."""
    weights: str = "auto"
    """`auto` (the bundled package where it has this backbone, else the hub), `bundled`, `hub`, `random`, or a file (.safetensors, .pth)."""
    strides: list[Literal[2, 4, 8, 16, 32]] = Field(default=[2, 4, 8, 16], min_length=1)
    """Strides of the stages used (ignored by plain ViTs, whose blocks share one grid)."""
    grid_stride: Literal[4, 8, 16, 32] = 16
    """Pixels of the image per location of the grid that the stages are resized to: 8 outlines small defects better, for four times the cost and more (ignored by plain ViTs)."""
    blocks: list[BlockIndex | Annotated[list[BlockIndex], Field(min_length=1)]] | None = Field(
        default=None, min_length=1
    )
    """Blocks of a plain ViT that are used, 0 the first; those of an inner list are averaged. null: the last four."""
    padding: Literal["timm", "published"] = "timm"
    """Padding that depends on the image size (`tf_` backbones): as timm has it, or as the HVQ-Trans code fixes it."""

    @field_validator("strides")
    @classmethod
    def _each_stride_once(cls, strides: list[int]) -> list[int]:
        return _distinct(strides, "a stride")

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

    def size_unit(self) -> int:
        """What image sizes are multiples of, in pixels: the grid's stride, or the patch that a ViT's name tells."""
        patch = self.named_patch() or self.grid_stride
        return patch if 16 % patch else self.grid_stride


class ValidationConfig(Section):
    """How a validation split is made where the dataset has none."""

    model_config = ConfigDict(populate_by_name=True)

    from_: Literal["test", "synthetic", "none"] = Field(default="test", alias="from")
    """`test`: stratified disjoint halves; `synthetic`: held-out normal images with synthetic defects; `none`: choose on test."""
    fraction: Annotated[float, Field(gt=0, lt=1)] | None = Field(default=None, validate_default=True)
    """Share of the test images (`from: test`) or of the normal training images (`from: synthetic`) that become `val`; null: 0.5 of the former, 0.2 of the latter."""
    seed: Seed = 0
    """Seed of the split."""
    group: str | None = None
    """Regular expression for file names (without suffix): images for which its first parenthesis (or all of it) matches the same text go to one side together, such as crops of one photograph, and are resampled together by the confirmation. null: the groups that the layout tells of (Real-IAD: the views of an object)."""

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
    """How the dataset lies on disk (docs/data.md); `auto` recognises it by what the folder holds."""
    classes: list[str] | None = None
    """Product classes to use; null means all."""
    backbone: BackboneConfig = BackboneConfig()
    """The frozen feature extractor."""
    image_size: Annotated[int, Field(ge=32, le=2048)] = 224
    """Side of the square to which images and masks are resized, in pixels: a multiple of the backbone's `grid_stride`, or of a ViT's patch."""
    bit_depth: BitDepth | None = None
    """Bits of the camera that wrote grey images into 16-bit files: values are divided by 2 ** (bit_depth - 8), larger ones are an error. null: all 16."""
    adapt_batchnorm: bool = False
    """Re-estimate the backbone's batch statistics once on the training images before features are cached."""
    validation: ValidationConfig = ValidationConfig()
    """How `val` is made."""

    @field_validator("classes")
    @classmethod
    def _each_class_once(cls, classes: list[str] | None) -> list[str] | None:
        return classes and _distinct(classes, "a class")

    @field_validator("image_size")
    @classmethod
    def _grid_fills_the_image(cls, image_size: int, info: ValidationInfo) -> int:
        backbone = info.data.get("backbone")
        if backbone is not None and image_size % backbone.size_unit():
            raise ValueError(
                f"{image_size} is out of range; must be a multiple of {backbone.size_unit()} with backbone {backbone.name!r}"
            )
        return image_size


class TrainConfig(Section):
    """How one configuration is trained."""

    epochs: PositiveInt = 8
    """Passes over the training images (see `images_per_epoch`)."""
    images_per_epoch: PositiveInt | None = None
    """Training images drawn per epoch, without repetition while they last; null means all."""
    class_balance: Fraction = 0.0
    """0 draws images uniformly, 1 draws every class equally often; between, class shares n_c ** (1 - class_balance)."""
    batch_size: PositiveInt = 16
    """Images per optimisation step, over all workers; an incomplete last batch of an epoch is left out."""
    lr: PositiveFloat = 1e-3
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "step", "cosine"] = "cosine"
    """Learning rate over the run: constant, x0.1 at 80 % of the steps (the paper's), or cosine to 1 % after warm-up."""
    warmup_fraction: Fraction = 0.05
    """Share of all steps in which the learning rate rises linearly from 0 (not with `step`)."""
    weight_decay: NonNegativeFloat = 1e-4
    """AdamW's weight decay."""
    gradient_clip: PositiveFloat | None = 1.0
    """Largest gradient norm; the paper's is 0.1; null switches clipping off."""
    calibration_images: PositiveInt | None = 48
    """Normal training images per class on which a model measures its map, spread evenly; null means all."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the trained model; `auto` is bf16 where the processor multiplies it natively, else fp32."""
    evaluate_every: PositiveInt = 1
    """Epochs between evaluations on `val` (the last epoch is always evaluated)."""
    pixel_metrics: Literal["always", "last"] = "always"
    """Pixel metrics at every evaluation, or at the last epoch only (they cost the most); always where one is optimised."""
    checkpoint: Literal["best", "last"] = "best"
    """Which epoch's weights and metrics count: the best on `val` by the sweep's metric, or the last."""
    seed: Seed = 0
    """Seed of initialisation, order, dropout and noise."""

    @model_validator(mode="after")
    def _kept_epoch_is_measured(self) -> TrainConfig:
        if self.pixel_metrics == "last" and self.checkpoint == "best":
            raise ValueError(
                "pixel_metrics: 'last' leaves the epoch that checkpoint 'best' keeps unmeasured; use 'always', or"
                " checkpoint: last"
            )
        return self


class ResourcesConfig(Section):
    """What one trial takes."""

    workers: PositiveInt = 1
    """Processes that train one trial together (DDP); 1 trains in the trial's own process."""
    cpus_per_worker: PositiveFloat | Literal["auto"] = "auto"
    """CPU cores per worker; also its number of threads. `auto`: 1, or an even share of the CPUs per GPU where there are GPUs."""
    gpus_per_worker: NonNegativeFloat | Literal["auto"] = "auto"
    """GPUs per worker, fractions included; `auto`: 1 where Ray has any, else 0."""
    max_concurrent_trials: PositiveInt | Literal["auto"] = "auto"
    """Upper limit of trials at once; `auto`: as many as cores, GPUs and memory hold (docs/cluster.md)."""
    max_failures: Annotated[int, Field(ge=0)] = 1
    """Restarts of a trial whose process died, from its last checkpoint."""

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole_above_one(cls, gpus: float | Literal["auto"]) -> float | Literal["auto"]:
        if gpus != "auto" and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"{gpus:g} is neither a fraction of one GPU nor a whole number of them")
        return gpus


class ConfirmConfig(Section):
    """Retraining of the best configurations once the search is over, measured on `test`."""

    top_k: Annotated[int, Field(ge=0)] = 0
    """How many of the best configurations are retrained; 0 retrains none."""
    seeds: list[Seed] = Field(default=[0, 1, 2], min_length=1)
    """Seeds of the retraining runs."""

    @field_validator("seeds")
    @classmethod
    def _differ(cls, seeds: list[Seed]) -> list[Seed]:
        return _distinct(seeds, "a seed")


BaselineChoice = Literal["padim", "patchcore", "no_quantizer"]


class RunConfig(Section):
    """Everything that one run of one configuration depends on."""

    model: ModelConfig = HvqConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="after")
    def _pool_fits_the_image(self) -> RunConfig:
        if self.model.score_pool_size > self.data.image_size:
            raise ValueError(
                f"model.score_pool_size: {self.model.score_pool_size} exceeds data.image_size {self.data.image_size};"
                " lower it"
            )
        return self

    @model_validator(mode="after")
    def _workers_share_a_batch(self) -> RunConfig:
        if self.train.batch_size < self.resources.workers:
            raise ValueError(
                f"train.batch_size: {self.train.batch_size} images cannot be shared by {self.resources.workers} workers;"
                " raise it or lower resources.workers"
            )
        return self
