"""HVQ-Trans: a transformer that can only reconstruct features from a hierarchy of quantised latents.

Lu et al., "Hierarchical Vector Quantized Transformer for Multi-class Unsupervised Anomaly Detection", NeurIPS 2023,
arXiv 2310.14228. Anomalies are what the codes of normal images cannot reconstruct.

Shapes: B batch, C feature channels, h x w feature grid, L = h * w tokens, D width, W = 2 D, H x W image, M routes,
A alternative maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hvqray.config.model_sections import HvqConfig
from hvqray.models.attention import DecoderLayer, Dropout, EncoderLayer, PositionEmbedding
from hvqray.models.batch import Batch, RouteImages
from hvqray.models.codebook_start import start_codebooks
from hvqray.models.context import ModelContext
from hvqray.models.image_score import ImageScore
from hvqray.models.interface import Objective, Prediction, alone
from hvqray.models.levels import Level, build_level, code_tokens
from hvqray.models.map_ops import upsample_map
from hvqray.models.random_stream import RandomStream
from hvqray.models.residual_distance import ErrorMap
from hvqray.models.route_choice import RouteChoice
from hvqray.models.router import Router, shared_route
from hvqray.models.standardize import FeatureStandardizer
from hvqray.quantizers.vq import QuantizerOutput, VectorQuantizer


@dataclass(frozen=True)
class Latents:
    """What the hierarchy makes of an image: per level its input and what the quantiser gave; `lower[i]` is q_i."""

    top: QuantizerOutput
    lower_input_BLW: list[Tensor]
    lower: list[QuantizerOutput]


class ExpertLinear(nn.Module):
    """A linear map of its own for every route."""

    def __init__(self, num_routes: int, in_width: int, out_width: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_width)
        self.weight_MWC = nn.Parameter(torch.empty(num_routes, in_width, out_width).uniform_(-bound, bound))
        self.bias_MC = nn.Parameter(torch.empty(num_routes, out_width).uniform_(-bound, bound))

    def forward(self, x_BLW: Float[Tensor, "B L W"], route_B: Int[Tensor, " #B"]) -> Float[Tensor, "B L C"]:
        # index_select, not indexing: its backward adds whole rows. shape, not len(): that would fix an exported graph's batch.
        bias_BC, weight_BWC = self.bias_MC.index_select(0, route_B), self.weight_MWC.index_select(0, route_B)
        return torch.baddbmm(bias_BC[:, None], x_BLW, weight_BWC.expand(x_BLW.shape[0], -1, -1))


class HvqNetwork(nn.Module):
    """The trained part: from (standardised) features through the codes to their reconstruction."""

    def __init__(
        self, config: HvqConfig, context: ModelContext, *, num_routes: int, random: RandomStream
    ) -> None:
        super().__init__()
        width, depth = config.width, config.hierarchy_depth
        dropout = Dropout(config.dropout, random)
        heads, hidden = config.num_heads, config.feedforward_width
        self.grid_size = context.grid_size
        self.projection = nn.Linear(context.feature_channels, width)
        self.position = PositionEmbedding(context.grid_size, width)
        self.encoder = nn.ModuleList(EncoderLayer(width, heads, hidden, dropout) for _ in range(depth))
        top, *lower = zip(config.quantizers(), config.codebook_sizes(), strict=True)
        self.top = build_level(config, *top, num_classes=num_routes, width=width)
        self.lower = nn.ModuleList(
            build_level(config, *level, num_classes=num_routes, width=2 * width) for level in reversed(lower)
        )
        self.decoder = nn.ModuleList(DecoderLayer(2 * width, heads, hidden, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(2 * width)
        self.output = ExpertLinear(num_routes, 2 * width, context.feature_channels)

    def levels(self) -> dict[str, Level]:
        """Level by name, from the top: `top`, `q{N-1}`, ..., `q0`."""
        depth = len(self.lower)
        return {"top": self.top} | {f"q{i}": cast(Level, self.lower[i]) for i in reversed(range(depth))}

    def vector_quantizers(self) -> list[VectorQuantizer]:
        """Those of the top level and then of the lower ones from q_0 up that are such."""
        return [level for level in (self.top, *self.lower) if isinstance(level, VectorQuantizer)]

    def encode(self, features_BChw: Float[Tensor, "B C h w"]) -> list[Tensor]:
        """The encoder's e_0 (the projected features) to e_N, each (B, L, D)."""
        states = [self.projection(features_BChw.flatten(2).mT)]
        position_LD = self.position()
        for layer in self.encoder:
            states.append(layer(states[-1], position_LD))
        return states

    def quantize(self, states: list[Tensor], route_B: Int[Tensor, " #B"]) -> Latents:
        """t = top(e_N), then q_i = lower_i([e_i ; t]); t's gradient passes straight through to e_N there too."""
        top = self.top(states[-1], route_B)
        inputs = [torch.cat([state_BLD, top.quantized_BLD], dim=-1) for state_BLD in states[:-1]]
        return Latents(top, inputs, [level(x, route_B) for level, x in zip(self.lower, inputs, strict=True)])

    def decode(self, latents: Latents, route_B: Int[Tensor, " #B"]) -> Float[Tensor, "B C h w"]:
        """From q_{N-1} down to q_0, a layer each; then the route's output map."""
        position_LD = self.position()
        position_LW = torch.cat([position_LD, position_LD], dim=-1)
        x_BLW = latents.lower[-1].quantized_BLD
        levels = zip(self.decoder, reversed(self.lower), reversed(latents.lower), strict=True)
        for layer, level, output in levels:
            x_BLW = layer(x_BLW, code_tokens(cast(Level, level), output, route_B), position_LW)
        output_BLC = self.output(self.norm(x_BLW), route_B)
        return output_BLC.float().mT.unflatten(-1, self.grid_size)

    def forward(
        self, features_BChw: Float[Tensor, "B C h w"], route_B: Int[Tensor, " #B"]
    ) -> tuple[Float[Tensor, "B C h w"], Latents]:
        """Reconstruction and codes of images with a route each, or with one for all."""
        latents = self.quantize(self.encode(features_BChw), route_B)
        return self.decode(latents, route_B), latents


class HvqModel(nn.Module):
    """HVQ-Trans as the training loop sees it; fulfils `AnomalyModel`."""

    needs_images = False

    def __init__(self, config: HvqConfig, context: ModelContext, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.config, self.context = config, context
        self.random = RandomStream(device)
        self.all_reduce_sum_: Callable[[Tensor], Tensor] = alone
        channels = context.feature_channels
        self.standardizer = FeatureStandardizer(channels, enabled=config.standardize_features)
        self.router = Router(config.router, num_classes=len(context.class_names), channels=channels)
        self.network = HvqNetwork(config, context, num_routes=self.router.num_routes, random=self.random)
        self.codebooks_per_class = frozenset(
            name
            for name, level in self.network.levels().items()
            if isinstance(level, VectorQuantizer) and config.router != "none"
        )
        self.error_map = ErrorMap(
            config,
            num_routes=self.router.num_routes,
            channels=channels,
            grid_size=context.grid_size,
            grid_stride=context.grid_stride,
        )
        self.image_score = ImageScore(config, num_routes=self.router.num_routes)
        self.map_choice = RouteChoice(len(config.map_weights()), num_routes=self.router.num_routes)
        self.objectives = [Objective("model", self.network, self.loss)]
        self.to(device)

    def codebook_sizes(self) -> dict[str, int]:
        levels = self.network.levels().items()
        return {name: level.codebook_size for name, level in levels if level.codebook_size is not None}

    def prepare(self, batches: Callable[[], Iterator[Batch]], *, seed: int) -> None:
        """Feature statistics, the router's prototypes, and with `codebook_init: kmeans` the codebooks."""
        self.standardizer.fit(batches())
        self.router.fit(batches)
        if self.network.vector_quantizers() and self.config.codebook_init == "kmeans":

            def routed() -> Iterator[tuple[Tensor, Tensor]]:
                for batch in batches():
                    # By the true class, as in training: a prototype may take an image for another class's.
                    yield (
                        self.standardizer(batch.features_BChw),
                        self.router.true_route(batch.class_index_B),
                    )

            *lower, top = reversed(self.network.levels().values())
            with evaluating(self):
                start_codebooks(
                    routed,
                    encode=self.network.encode,
                    top=top,
                    lower=lower,
                    num_routes=self.router.num_routes,
                    seed=seed,
                )

    def loss(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Mean squared error of the reconstruction plus the weighted sum of the levels' commitment terms."""
        target_BChw = self.standardizer(batch.features_BChw)
        input_BChw = target_BChw
        if self.config.feature_noise > 0:
            input_BChw = self.standardizer.add_noise(target_BChw, self.config.feature_noise, self.random)
        output_BChw, latents = self.network(input_BChw, self.router(batch.features_BChw, batch.class_index_B))
        feature_mse = F.mse_loss(output_BChw, target_BChw)
        if not self.network.vector_quantizers():
            return {"loss": feature_mse, "feature_mse": feature_mse.detach()}
        commitment = torch.stack([output.commitment for output in (latents.top, *latents.lower)]).sum()
        loss = feature_mse + self.config.commitment_weight * commitment
        return {"loss": loss, "feature_mse": feature_mse.detach(), "commitment": commitment.detach()}

    def after_step(self) -> None:
        for level in self.network.vector_quantizers():
            level.update(self.all_reduce_sum_)

    @torch.no_grad()
    def calibrate(self, images: Iterable[RouteImages]) -> None:
        """The distribution of errors on normal images, where `map_distance` asks for it."""
        with evaluating(self):
            for each in images:
                self.error_map.fit(each.routes, (self._errors(batch) for batch in each.batches(None)))

    def _errors(self, batch: Batch) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """Of the reconstructed features, and these features."""
        features_BChw = self.standardizer(batch.features_BChw)
        route_B = self.router(batch.features_BChw, batch.class_index_B)
        reconstruction_BChw: Tensor = self.network(features_BChw, shared_route(route_B))[0]
        return reconstruction_BChw - features_BChw, features_BChw

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """Map: distance of the reconstruction from the feature + ot_weight * OT at the scored levels, at image size."""
        with evaluating(self):
            features_BChw = self.standardizer(batch.features_BChw)
            route_B = self.router(batch.features_BChw, batch.class_index_B)
            codes_route_B = shared_route(route_B)
            output_BChw, latents = self.network(features_BChw, codes_route_B)
            maps_BAhw, scored_BUhw = self.error_map(output_BChw - features_BChw, features_BChw, route_B)
            if self.network.vector_quantizers() and self.config.ot_weight > 0:
                for i in self.config.ot_levels:
                    level = cast(VectorQuantizer, self.network.lower[i])
                    cost_BL = level.transport_cost(latents.lower_input_BLW[i], codes_route_B)
                    cost_B1hw = self.config.ot_weight * cost_BL.view_as(maps_BAhw[:, :1])
                    maps_BAhw, scored_BUhw = maps_BAhw + cost_B1hw, scored_BUhw + cost_B1hw
        maps_BAHW = self._at_image_size(maps_BAhw)
        scores_BS = self.image_score(self._at_image_size(scored_BUhw, pool_size=self.image_score.pool_size))
        outputs = {"top": latents.top} | {
            f"q{i}": latents.lower[i] for i in reversed(range(len(latents.lower)))
        }
        codes = {name: output.indices_BL for name, output in outputs.items() if output.indices_BL is not None}
        return Prediction.chosen(
            maps_BAHW,
            scores_BS,
            codes,
            route_B,
            router=self.router,
            map_choice=self.map_choice,
            image_score=self.image_score,
        )

    def _at_image_size(
        self, maps_BAhw: Float[Tensor, "B A h w"], *, pool_size: int = 1
    ) -> Float[Tensor, "B A H W"]:
        maps_nHW = upsample_map(
            maps_BAhw.flatten(0, 1),
            self.context.image_size,
            at_centres=self.context.grid_of_patches,
            pool_size=pool_size,
        )
        return maps_nHW.unflatten(0, (-1, maps_BAhw.shape[1]))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode for the duration, then the mode that was."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
