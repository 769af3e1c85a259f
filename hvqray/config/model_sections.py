"""The `model` section: HVQ-Trans or SQUAD, their quantisers and their maps."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from hvqray.config.section import Fraction, NonNegativeFloat, PositiveInt, Section, distinct

FsqLevels = Annotated[list[Annotated[int, Field(ge=3, le=64)]], Field(min_length=1, max_length=10)]
QuantizerName = Literal["vq", "fsq", "none"]

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
Weights = Annotated[
    Annotated[NonNegativeFloat, Tag("one")]
    | Annotated[list[NonNegativeFloat], Field(min_length=1), Tag("list")],
    Discriminator(_one_or_list),
]
MapSource = Literal["fine", "codes", "patches", "all"]
MapSources = Annotated[
    Annotated[MapSource, Tag("one")] | Annotated[list[MapSource], Field(min_length=1), Tag("list")],
    Discriminator(_one_or_list),
]
ScoreSource = Literal["map", "fine", "coarse", "both", "codes"]
COARSE_SOURCES: frozenset[ScoreSource] = frozenset({"coarse", "both", "codes"})
"""Those that have the distance of averaged errors in them."""
ScoreSources = Annotated[
    Annotated[ScoreSource, Tag("one")] | Annotated[list[ScoreSource], Field(min_length=1), Tag("list")],
    Discriminator(_one_or_list),
]


class MapWeights(NamedTuple):
    """What counts in a map beside the distance of the error."""

    source: MapSource
    """The `map_from` that it comes of."""
    norm: float
    """Of the error's norm."""
    codes: float
    """Of the coreset distance."""
    patches: float
    """Of the coreset distance of features averaged over 3 x 3 locations."""
    coarse: float
    """Of the coarse scale, the distances of averaged errors and features."""


class QuantizerFields(Section):
    """What both models say about their discrete codes."""

    quantizer: LevelQuantizers = "vq"
    """`vq` learns codebooks by EMA, `fsq` rounds to fixed levels, `none` leaves the latents continuous (a baseline). Or a list with one entry per level, from the top."""
    codebook_size: LevelSizes = 128
    """Codes per codebook, K. Or a list with one entry per level, from the top: `top, q{N-1}, ..., q0` (used at levels with `quantizer: vq`)."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay per step of the codebooks' moving averages (used with `quantizer: vq`)."""
    commitment_weight: NonNegativeFloat = 0.25
    """Weight of the commitment term, summed over levels (used with `quantizer: vq`)."""
    codebook_init: Literal["kmeans", "normal"] = "kmeans"
    """How codes are initialised: k-means centres of training tokens, or draws from N(0, 1) (used with `quantizer: vq`)."""
    revive_dead_codes: bool = False
    """Re-initialise codes that were not used for `revive_after` steps, by splitting the busiest codes of the step (used with `quantizer: vq`)."""
    revive_after: PositiveInt = 100
    """Number of steps without use after which a code is dead (used with `revive_dead_codes`)."""
    fsq_levels: FsqLevels = Field(default=[8, 5, 5, 5])
    """Levels of each FSQ dimension: at least 3 levels, at most 10 dimensions (used with `quantizer: fsq`)."""


class ErrorMapFields(Section):
    """How both models turn the error of the reconstructed features into a map, and the map into an image's score."""

    map_distance: Literal["l2", "mahalanobis", "local_mahalanobis"] = "l2"
    """How the reconstruction error at a location becomes one number: `l2`, its norm; `mahalanobis`, its distance from the errors of normal images at all locations; `local_mahalanobis`, from those at the same location (docs/models.md)."""
    map_shrinkage: Fraction | Literal["oas"] = "oas"
    """Shrinkage of each location's covariance towards the covariance of the class, from 0 to 1; `oas` estimates it (used with `local_mahalanobis`)."""
    map_coarse_weight: NonNegativeFloat = 0.0
    """Weight of the coarse scale in the map. Errors and features are averaged over 3 x 3 locations (on finer grids more: 7 x 7 at 8 pixels per location). The coarse term is the distance of the averaged errors, plus `map_code_weight` times the coreset distance of the averaged features (not with `map_distance: l2`)."""
    map_norm_weight: Weights = 0.0
    """Weight of the error's plain norm in the map, added to its distance (not with `map_distance: l2`, which is that norm). Of a list, each class that the router distinguishes gets the weight with the best map on `val`; a list needs a `score_from` other than `map`."""
    feature_codes: Annotated[int, Field(ge=0, le=MOST_CODES)] = 0
    """Size of the coreset: how many features of normal images are kept per class, chosen to cover them evenly. The distance of a feature from the nearest one (the coreset distance, as in PatchCore) can count in map and score. 0 keeps none (not with `map_distance: l2`)."""
    map_code_weight: Weights = 0.0
    """Weight of the coreset distance in the map (used with `feature_codes`). A list works like one of `map_norm_weight`; both are chosen together."""
    map_from: MapSources = "all"
    """What the map contains beside the norm: `fine`, the distance of the error; `codes`, that and the coreset distance; `patches`, that and the coreset distance of features averaged over 3 x 3 locations, PatchCore's patches (for grids finer than 16 pixels per location); `all`, that, the coreset distance and the coarse scale. Each has its own weight. A list works like one of `map_norm_weight`; options that amount to the same are tried once."""
    score_from: ScoreSources = "map"
    """What the image score is computed from: `map`, the map; `fine`, the distance of the error; `coarse`, the distance of averaged errors (averaged as for `map_coarse_weight`); `both`, the sum of these two; `codes`, the sum of these two and the coreset distance of averaged features (skipped in a list if `feature_codes` is 0). Of a list, each class gets the one that is best on `val`."""
    score_code_weight: NonNegativeFloat = 4.0
    """Weight of the coreset distance in `score_from: codes`."""
    score_pool_size: PositiveInt = 16
    """Side of the average-pooling window (pixels, stride 1) that is applied before the image score is computed."""
    score_top_fraction: Fractions = 0.0
    """The image score is the mean of this share of the pooled map's highest values; 0 takes the maximum (HVQ-Trans). Of a list, each class that the router distinguishes gets the share that is best on `val`."""

    def map_weights(self) -> list[MapWeights]:
        """What `map_norm_weight`, `map_code_weight` and `map_from` leave to choose from for each class, every one once."""
        code_weights = _listed(self.map_code_weight) if self.feature_codes else [0.0]
        sources: list[MapSource] = _listed(self.map_from)
        found: dict[tuple[float, ...], MapWeights] = {}
        for of_norm, of_codes, source in product(_listed(self.map_norm_weight), code_weights, sources):
            codes = of_codes if source in ("codes", "all") else 0.0
            patches = of_codes if source == "patches" else 0.0
            coarse = self.map_coarse_weight if source == "all" else 0.0
            numbers = of_norm, codes, patches, coarse
            found.setdefault(numbers, MapWeights(source, *numbers))
        return list(found.values())

    def score_sources(self) -> list[ScoreSource]:
        """What each class's image score may be taken from; of a list without `codes` where no features are kept."""
        sources: list[ScoreSource] = _listed(self.score_from)
        return [source for source in sources if source != "codes" or self.feature_codes] or sources

    def score_top_fractions(self) -> list[float]:
        """The shares that the image score may be taken from."""
        return _listed(self.score_top_fraction)

    def measures_coarse(self) -> bool:
        """Whether map or score want the distance of averaged errors."""
        in_map = any(weights.coarse > 0 for weights in self.map_weights())
        return in_map or not COARSE_SOURCES.isdisjoint(self.score_sources())

    def keeps_coarse_features(self) -> bool:
        """Whether map or score want the distance of averaged features from kept ones."""
        in_map = any(weights.coarse * weights.codes > 0 for weights in self.map_weights())
        return in_map or "codes" in self.score_sources()

    @field_validator("map_norm_weight", "map_code_weight", "map_from", "score_from", "score_top_fraction")
    @classmethod
    def _each_once(cls, given: Any, info: ValidationInfo) -> Any:
        kinds = {"map_from": "a source", "score_from": "a source", "score_top_fraction": "a share"}
        assert info.field_name is not None
        return distinct(given, kinds.get(info.field_name, "a weight")) if isinstance(given, list) else given

    @model_validator(mode="after")
    def _is_beside_a_distance(self) -> ErrorMapFields:
        if self.map_distance == "l2":
            for field in ("map_coarse_weight", "map_norm_weight", "feature_codes", "map_from", "score_from"):
                value, default = getattr(self, field), type(self).model_fields[field].default
                if value != default:
                    raise ValueError(
                        f"{field}: {value} needs map_distance mahalanobis or local_mahalanobis; with l2 leave it at {default}"
                    )
        if len(self.map_weights()) > 1 and "map" in self.score_sources():
            lists = ("map_norm_weight", "map_from", "map_code_weight")
            name = next(field for field in lists if len(_listed(getattr(self, field))) > 1)
            raise ValueError(
                f"score_from: {self.score_from} takes scores from a map of which {name} {getattr(self, name)}"
                " leaves open which it is; take fine, coarse or both, or a single one"
            )
        if self.map_from in ("codes", "patches") and not any(
            weights.codes + weights.patches for weights in self.map_weights()
        ):
            raise ValueError(
                f"map_from: {self.map_from} needs feature_codes and a map_code_weight above 0; set them, to 1000 and 4 for instance, or take fine"
            )
        if "codes" in self.score_sources() and not self.feature_codes:
            raise ValueError(
                f"score_from: {self.score_from} needs feature_codes; set it, to 1000 for instance, or take fine or both"
            )
        return self


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


class HvqConfig(ErrorMapFields, QuantizerFields):
    """HVQ-Trans: a transformer that reconstructs features from a hierarchy of quantised latents."""

    name: Literal["hvq"] = "hvq"
    """Which model."""
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 128
    """Embedding width D; the paper's is 256."""
    hierarchy_depth: Annotated[int, Field(ge=1, le=8)] = 2
    """Number of encoder layers, of decoder layers, and of quantised levels below the top, N; the paper's is 4."""
    codebook_growth: PositiveInt = 1
    """Factor by which the codebook grows from each level to the one below; `codebook_size` is then the size at the top. The paper has the same size at all levels (1); q0 may have at most 65536 codes (used with `quantizer: vq`)."""
    num_heads: PositiveInt = 8
    """Attention heads; must divide `width`."""
    feedforward_width: PositiveInt = 512
    """Hidden width of the feed-forward layers; the paper's is 1024."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout probability in attention and feed-forward layers."""
    standardize_features: bool = True
    """Reconstruct features that are scaled to zero mean and unit variance per channel, measured on the training images; the paper does not."""
    feature_noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise on the input features in training, relative to that of the channel."""
    router: Literal["oracle", "predicted", "none"] = "oracle"
    """What selects codebooks and output layer: `oracle`, the true class; `predicted`, the nearest class prototype; `none`, nothing (one shared set)."""
    ot_weight: NonNegativeFloat = 80.0
    """Weight of the optimal-transport (OT) cost in the anomaly map (used with `quantizer: vq`)."""
    ot_levels: list[Annotated[int, Field(ge=0)]] = Field(default=[0])
    """Indices i of the levels q_i whose OT cost counts; the paper's is [0] (used with `quantizer: vq`)."""

    @field_validator("ot_levels")
    @classmethod
    def _each_level_once(cls, levels: list[int]) -> list[int]:
        return distinct(levels, "a level")

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
    """Number of residual convolution blocks, in the encoder and in the feature decoder each."""
    router: Literal["oracle", "predicted", "none"] = "none"
    """Whose normal errors a map is judged by: `oracle`, those of the true class; `predicted`, of the class with the nearest prototype; `none`, of all classes together."""
    hierarchy: Literal["resolutions", "residual"] = "resolutions"
    """`resolutions`: coarse codes condition finer ones, each level at half the resolution of the next (as VQ-VAE-2); `residual`: residual quantisation on one grid."""
    hierarchy_depth: Annotated[int, Field(ge=1, le=4)] = 2
    """Number of quantised levels."""
    standardize_features: bool = True
    """Reconstruct features that are scaled to zero mean and unit variance per channel, measured on the training images."""
    feature_noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise on the input features in training, relative to that of the channel."""
    image_head: bool = True
    """Whether a second decoder head reconstructs the image; without it there is no discriminator either."""
    image_scale: Literal[1, 2, 4] = 4
    """The image head reconstructs the image at its size divided by this."""
    image_width: Annotated[int, Field(ge=4, multiple_of=4)] = 32
    """Channels of the image head's last block and of the discriminator's first."""
    discriminator: bool = True
    """Whether a PatchGAN discriminator judges the reconstructed image."""
    discriminator_start: Fraction = 0.3
    """Share of all training steps after which the discriminator starts."""
    feature_mse_weight: NonNegativeFloat = 1.0
    """Weight of the features' mean squared error in the loss."""
    feature_cosine_weight: NonNegativeFloat = 1.0
    """Weight of the features' cosine distance in the loss."""
    image_l1_weight: NonNegativeFloat = 1.0
    """Weight of the image's absolute error in the loss."""
    image_ssim_weight: NonNegativeFloat = 0.5
    """Weight of the image's 1 - SSIM in the loss."""
    adversarial_weight: NonNegativeFloat = 0.1
    """Weight of the generator's adversarial term, multiplied by the adaptive weight."""
    map_cosine_weight: NonNegativeFloat = 1.0
    """Weight of the features' cosine distance in the anomaly map."""
    map_l2_weight: NonNegativeFloat = 1.0
    """Weight of the features' error, as `map_distance` measures it, in the anomaly map."""
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
