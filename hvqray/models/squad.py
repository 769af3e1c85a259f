"""SQUAD: a hierarchical FSQ autoencoder of features and image, with a PatchGAN discriminator.

After Lin and Lai, ECCV Workshops 2024, doi 10.1007/978-3-031-92805-5_11, of which the abstract is public; the rest is this
project's design (docs/models.md). FSQ: Mentzer et al., arXiv 2309.15505. Hierarchy: VQ-VAE-2, arXiv 1906.00446. Adversarial
term: VQGAN, arXiv 2012.09841.

Shapes: B batch, C feature channels, h x w feature grid, S x S image, T x T image as the image head makes it, L tokens,
A alternative maps, U sources of the image score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from hvqray.config.model_sections import SquadConfig
from hvqray.models.batch import Batch, RouteImages
from hvqray.models.context import ModelContext
from hvqray.models.hvq import evaluating
from hvqray.models.image_score import ImageScore
from hvqray.models.interface import Objective, Prediction, alone
from hvqray.models.patchgan import PatchDiscriminator, adaptive_weight, hinge_loss
from hvqray.models.random_stream import RandomStream
from hvqray.models.residual_distance import ErrorMap
from hvqray.models.route_choice import RouteChoice
from hvqray.models.router import Router
from hvqray.models.squad_blocks import Generator, Reconstruction
from hvqray.models.squad_map import ComponentMap
from hvqray.models.ssim import ssim_map
from hvqray.models.standardize import FeatureStandardizer
from hvqray.quantizers.vq import VectorQuantizer

AT_CENTRES = ("image", "discriminator")
"""Parts of the map whose locations lie at the centres of their cells, whatever the feature grid.

A pixel of the smaller image is the mean of such a cell; and with 4 x 4 kernels of stride 2 and padding 1 the middle of what location i of the
discriminator's first stage sees is pixel 2 i + 0.5 of that image, of its later ones 4 i + 1.5. Where a side is odd, a stage
leaves out the last row and column, so that the far edge is drawn up to a cell off.
"""
IMAGES_MEASURED, LEAST_OF_ROUTE = 512, 64
"""Normal images on which mean and deviation of the map's parts are measured, in all, and of a route (at least)."""
TOKENS_PER_CODE = 8
"""Training tokens per code that k-means starts from (with `quantizer: vq`)."""


class SquadModel(nn.Module):
    """SQUAD as the training loop sees it; fulfils `AnomalyModel`."""

    codebooks_per_class: frozenset[str] = frozenset()

    def __init__(
        self, config: SquadConfig, context: ModelContext, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        self.config, self.context = config, context
        self.needs_images = config.image_head
        self.random = RandomStream(device)
        self.all_reduce_sum_: Callable[[Tensor], Tensor] = alone

        self.standardizer = FeatureStandardizer(context.feature_channels, enabled=config.standardize_features)
        self.generator = Generator(
            config,
            feature_channels=context.feature_channels,
            grid_side=context.grid_size[0],
            image_side=context.image_size // config.image_scale,
        )
        self.discriminator = (
            PatchDiscriminator(config.image_width) if config.image_head and config.discriminator else None
        )
        self.router = Router(
            config.router, num_classes=len(context.class_names), channels=context.feature_channels
        )
        self.error_map = ErrorMap(
            config,
            num_routes=self.router.num_routes,
            channels=context.feature_channels,
            grid_size=context.grid_size,
            grid_stride=context.grid_stride,
        )
        self.map_weights = self._component_weights()
        self.map_parts = self._with_errors(_numbered("l2", len(config.map_weights())))
        """The components of each alternative map, and their weights; likewise of what each source of the score is."""
        self.score_parts = self.map_parts
        if config.score_sources() != ["map"]:
            self.score_parts = self._with_errors(_numbered("score", len(config.score_sources())))
        names = sorted({name for parts in self.map_parts + self.score_parts for name in parts})
        self.component_map = ComponentMap(
            names,
            at_centres=names if context.grid_of_patches else AT_CENTRES,
            image_size=context.image_size,
            smoothing_sigma=config.smoothing_sigma,
        )
        self.image_score = ImageScore(config, num_routes=self.router.num_routes)
        self.map_choice = RouteChoice(len(self.map_parts), num_routes=self.router.num_routes)
        self.objectives = [Objective("generator", self.generator, self._generator_loss)]
        if self.discriminator is not None:
            self.objectives.append(
                Objective("discriminator", self.discriminator, self._discriminator_loss, self._is_adversarial)
            )
        self._judged: tuple[Tensor, Tensor] | None = None
        """Real and made images between the two losses of a step."""
        self.to(device)

    def codebook_sizes(self) -> dict[str, int]:
        return self.generator.hierarchy.codebook_sizes()

    def prepare(self, batches: Callable[[], Iterator[Batch]], *, seed: int) -> None:
        """Feature statistics, the router's prototypes, and with `quantizer: vq, codebook_init: kmeans` the codebooks, from the top down."""
        self.standardizer.fit(batches())
        self.router.fit(batches)
        if self.config.quantizer == "vq" and self.config.codebook_init == "kmeans":
            with evaluating(self):
                for level in self.generator.hierarchy.vector_quantizers():
                    level.start_from_tokens({0: self._sample_tokens(batches, level, seed=seed)}, seed=seed)

    def after_step(self) -> None:
        self._judged = None
        for level in self.generator.hierarchy.vector_quantizers():
            level.update(self.all_reduce_sum_)

    @torch.no_grad()
    def calibrate(self, images: Iterable[RouteImages]) -> None:
        """On normal images the distribution of errors, then mean and deviation of every component of the map."""
        with evaluating(self):
            self.component_map.fit(self._fit_errors(images), self.all_reduce_sum_)

    def _fit_errors(self, images: Iterable[RouteImages]) -> Iterator[tuple[dict[str, Tensor], float]]:
        """Measure each route's errors; give the components of a sample of its images, and how many images each stands for."""
        for each in images:
            if "l2" in self.map_weights:
                self.error_map.fit(each.routes, (self._errors(batch) for batch in each.batches(None)))
            if not each.are_of_others:
                most = max(LEAST_OF_ROUTE, IMAGES_MEASURED // self.router.num_routes)
                weight = max(1.0, each.num_images / most)
                for batch in each.batches(most):
                    yield self._components(batch, measured=True)[0], weight

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """The map of `ComponentMap`; its pooled maximum, or the mean of its top fraction, is the image score."""
        with evaluating(self):
            components, reconstruction = self._components(batch)
            route_B = self.router(batch.features_BChw, batch.class_index_B)
        pool_size = self.image_score.pool_size
        codes = {
            name: output.indices_BL
            for name, output in reconstruction.quantized.levels.items()
            if output.indices_BL is not None
        }
        return Prediction.chosen(
            self.component_map(components, self.map_parts),
            self.image_score(self.component_map(components, self.score_parts, pool_size=pool_size)),
            codes,
            route_B,
            router=self.router,
            map_choice=self.map_choice,
            image_score=self.image_score,
        )

    # -- training -----------------------------------------------------------------------------------------------

    def _is_adversarial(self, progress: float) -> bool:
        return self.discriminator is not None and progress >= self.config.discriminator_start

    def _generator_loss(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        config = self.config
        target_BChw = self.standardizer(batch.features_BChw)
        input_BChw = target_BChw
        if config.feature_noise > 0:
            input_BChw = self.standardizer.add_noise(target_BChw, config.feature_noise, self.random)
        reconstruction = self.generator(input_BChw)

        features_BChw = reconstruction.features_BChw
        parts = {
            "feature_mse": F.mse_loss(features_BChw, target_BChw),
            "feature_cosine": (1 - F.cosine_similarity(features_BChw, target_BChw, dim=1)).mean(),
        }
        loss = config.feature_mse_weight * parts["feature_mse"]
        loss = loss + config.feature_cosine_weight * parts["feature_cosine"]
        if config.quantizer == "vq":
            commitments = [output.commitment for output in reconstruction.quantized.levels.values()]
            parts["commitment"] = torch.stack(commitments).sum()
            loss = loss + config.commitment_weight * parts["commitment"]
        if reconstruction.image_B3TT is not None:
            image_loss, image_parts = self._image_loss(batch, reconstruction.image_B3TT, progress)
            loss, parts = loss + image_loss, parts | image_parts
        return {"loss": loss} | {name: value.detach() for name, value in parts.items()}

    def _image_loss(
        self, batch: Batch, image_B3TT: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        target_B3TT = self._target_image(batch)
        parts = {
            "image_l1": F.l1_loss(image_B3TT, target_B3TT),
            "image_ssim": _ssim_error(image_B3TT, target_B3TT).mean(),
        }
        loss = self.config.image_l1_weight * parts["image_l1"]
        loss = loss + self.config.image_ssim_weight * parts["image_ssim"]
        if self.discriminator is None or not self._is_adversarial(progress):
            return loss, parts

        self._judged = (target_B3TT, image_B3TT.detach())
        # Gradients are taken as far as the image only, so none reaches the discriminator's parameters, and its backward
        # pass, needed for the norms anyway, is not made a second time.
        adversarial = -self.discriminator(image_B3TT).mean()
        assert self.generator.image_head is not None
        last_weight = self.generator.image_head.last.weight
        # What was computed in float32 within an autocast is differentiated in bfloat16 there, SSIM's products with it.
        with torch.autocast(image_B3TT.device.type, enabled=False):
            (image_gradient,) = torch.autograd.grad(loss, image_B3TT)
            (adversarial_gradient,) = torch.autograd.grad(adversarial, image_B3TT)
            weight = self.config.adversarial_weight * adaptive_weight(
                *(
                    torch.autograd.grad(image_B3TT, last_weight, gradient, retain_graph=True)[0]
                    for gradient in (image_gradient, adversarial_gradient)
                ),
                num_images=len(image_B3TT),
                all_reduce_sum_=self.all_reduce_sum_,
            )
        parts |= {"adversarial": adversarial, "adversarial_weight": weight}
        gradient_B3TT = image_gradient + weight * adversarial_gradient
        return _with_gradient(loss + weight * adversarial, image_B3TT, gradient_B3TT), parts

    def _discriminator_loss(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Hinge loss on the images that the generator's loss has just made of the same batch."""
        assert self._judged is not None, "the generator's loss comes first"
        assert self.discriminator is not None
        real_B3TT, fake_B3TT = self._judged
        real, fake = self.discriminator(torch.cat([real_B3TT, fake_B3TT])).chunk(2)
        return {
            "loss": hinge_loss(real, fake),
            "discriminator_real": real.detach().mean(),
            "discriminator_fake": fake.detach().mean(),
        }

    # -- the anomaly map ----------------------------------------------------------------------------------------

    def _component_weights(self) -> dict[str, float]:
        """Components that exist and count."""
        config = self.config
        weights = {"cosine": config.map_cosine_weight, "l2": config.map_l2_weight}
        if config.image_head:
            weights["image"] = config.map_image_weight
        if self.discriminator is not None:
            weights["discriminator"] = config.map_discriminator_weight
        return {name: weight for name, weight in weights.items() if weight > 0}

    def _with_errors(self, names: Sequence[str]) -> list[dict[str, float]]:
        """The map's components, `l2` being each of `names` in turn."""
        return [
            {name if part == "l2" else part: weight for part, weight in self.map_weights.items()}
            for name in names
        ]

    def _errors(self, batch: Batch) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """Of the reconstructed features, without the image, and these features."""
        features_BChw = self.standardizer(batch.features_BChw)
        return self.generator.reconstruct_features(features_BChw) - features_BChw, features_BChw

    def _components(
        self, batch: Batch, *, measured: bool = False
    ) -> tuple[dict[str, Tensor], Reconstruction]:
        """The map's components, each (B, a, b) on its own grid, float32; `measured` as of `ErrorMap`."""
        wanted = self.map_weights
        features_BChw = self.standardizer(batch.features_BChw)
        reconstruction = self.generator(features_BChw)
        components = {}
        if "cosine" in wanted:
            components["cosine"] = 1 - F.cosine_similarity(reconstruction.features_BChw, features_BChw, dim=1)
        if "l2" in wanted:
            route_B = self.router(batch.features_BChw, batch.class_index_B)
            maps_BAhw, scored_BUhw = self.error_map(
                reconstruction.features_BChw - features_BChw, features_BChw, route_B, measured=measured
            )
            for name, found in (("l2", maps_BAhw), ("score", scored_BUhw)):
                components |= zip(_numbered(name, found.shape[1]), found.unbind(1), strict=True)
        if reconstruction.image_B3TT is not None and wanted.keys() & {"image", "discriminator"}:
            target_B3TT = self._target_image(batch)
            if "image" in wanted:
                components["image"] = _ssim_error(reconstruction.image_B3TT, target_B3TT)
            if "discriminator" in wanted:
                components["discriminator"] = self._matching_distance(reconstruction.image_B3TT, target_B3TT)
        return components, reconstruction

    def _matching_distance(self, image_B3TT: Tensor, target_B3TT: Tensor) -> Tensor:
        """Mean absolute difference of the discriminator's activations (pix2pixHD's feature matching), stages averaged."""
        assert self.discriminator is not None
        distances = []
        for stage in self.discriminator.features(torch.cat([image_B3TT, target_B3TT])):
            image_stage, target_stage = stage.float().unflatten(0, (2, -1))
            distances.append((image_stage - target_stage).abs().mean(1, keepdim=True))
        size = distances[0].shape[2:]
        return torch.cat([F.interpolate(d, size=size, mode="bilinear") for d in distances], dim=1).mean(1)

    def _target_image(self, batch: Batch) -> Float[Tensor, "B 3 T T"]:
        """The image in [-1, 1], made smaller by averaging areas."""
        assert batch.images_B3HW is not None
        return F.avg_pool2d(_to_float(batch.images_B3HW), self.config.image_scale)

    @torch.no_grad()
    def _sample_tokens(
        self, batches: Callable[[], Iterator[Batch]], level: VectorQuantizer, *, seed: int
    ) -> Float[Tensor, "T D"]:
        """About `TOKENS_PER_CODE` tokens per code of what `level` quantises, drawn evenly from all images."""
        num_images = sum(len(batch.class_index_B) for batch in batches())
        per_image = math.ceil(TOKENS_PER_CODE * self.config.codebook_size / num_images)
        generator = torch.Generator().manual_seed(seed)
        kept: list[Tensor] = []

        def keep_some(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            for tokens_LD in inputs[0].float():
                chosen = torch.randperm(len(tokens_LD), generator=generator)[:per_image]
                kept.append(tokens_LD[chosen.to(tokens_LD.device)])

        with level.register_forward_pre_hook(keep_some):
            for batch in batches():
                self.generator.quantize(self.standardizer(batch.features_BChw))
        return torch.cat(kept)


def _numbered(name: str, count: int) -> list[str]:
    """`name` itself where there is one of it."""
    return [name] if count == 1 else [f"{name}{number}" for number in range(count)]


def _to_float(images_B3SS: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
    return images_B3SS.float() / 127.5 - 1


def _ssim_error(image_B3TT: Tensor, target_B3TT: Tensor) -> Tensor:
    """1 - SSIM per pixel, (B, T, T), of images in [-1, 1]."""
    return 1 - ssim_map((image_B3TT + 1) / 2, (target_B3TT + 1) / 2)


def _with_gradient(value: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
    """A scalar equal to `value` whose gradient with respect to `x` is `gradient`."""
    linear = (x * gradient.detach()).sum()
    return value.detach() + linear - linear.detach()
