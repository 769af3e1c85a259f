"""The loops around the plain models: a step with the backbone in it, and an evaluation image by image.

`PlainHvq` is the published loop of HVQ-Trans. SQUAD has no published code: `PlainSquad` takes the networks from this project
and trains them as VQGAN's published loop does (arXiv 2012.09841): two backward passes through both networks for the
adaptive weight, real and made images judged one after the other, SSIM by convolution.

Legend: B batch, C feature channels, h x w feature grid, S x S image, T x T image that SQUAD reconstructs.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import timm
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from benchmarks.problems import Problem
from benchmarks.published_hvq import Codebook, PublishedHvq
from hvqray.config.data_sections import BackboneConfig
from hvqray.config.model_sections import HvqConfig, SquadConfig
from hvqray.data.backbone_weights import find_weights, read_weights
from hvqray.models.patchgan import PatchDiscriminator
from hvqray.models.squad_blocks import Generator

Maps = tuple[np.ndarray, np.ndarray]
"""Maps (B, S, S) and scores (B,)."""


class PlainBackbone(nn.Module):
    """timm's extractor as it comes. In the published code it is part of the model, and changes modes with it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        config = BackboneConfig(name=problem.backbone, weights=problem.weights)
        weights = find_weights(config)
        trained = {} if weights is None else {"state_dict": read_weights(weights, config)}
        self.network = timm.create_model(
            problem.backbone,
            features_only=True,
            out_indices=(0, 1, 2, 3),
            pretrained=bool(trained),
            pretrained_cfg_overlay=trained,
        )
        self.grid_size = problem.context.grid_size

    @torch.no_grad()
    def forward(self, images_B3SS: Tensor) -> Tensor:
        stages = self.network(images_B3SS.float() / 127.5 - 1)
        resized = [F.interpolate(x, self.grid_size, mode="bilinear", align_corners=True) for x in stages]
        return torch.cat(resized, dim=1)


class PlainHvq:
    """Trains and applies HVQ-Trans on uint8 images."""

    def __init__(self, problem: Problem, device: str, *, lr: float = 1e-4) -> None:
        assert isinstance(problem.model, HvqConfig)
        self.config, self.size = problem.model, problem.image_size
        self.backbone = PlainBackbone(problem).to(device)
        self.network = PublishedHvq(problem.model, problem.context).to(device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=lr, weight_decay=1e-4)

    def step(self, images_B3SS: Tensor, class_index_B: Tensor) -> float:
        """One optimisation step; the loss."""
        self.backbone.train()
        self.network.train()
        features_BChw = self.backbone(images_B3SS)
        output_BChw, commitment, _ = self.network(features_BChw, class_index_B)
        loss = F.mse_loss(output_BChw, features_BChw) + self.config.commitment_weight * commitment
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 0.1)
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def predict(self, images_B3SS: Tensor, class_index_B: Tensor) -> Maps:
        self.backbone.eval()
        self.network.eval()
        features_BChw = self.backbone(images_B3SS)
        output_BChw, _, input_BLW = self.network(features_BChw, class_index_B)
        map_Bhw = (output_BChw - features_BChw).norm(dim=1)
        books = self.network.lower[0]
        assert isinstance(books, nn.ModuleList)
        costs = [
            cast(Codebook, books[int(c)]).transport_cost(x)
            for x, c in zip(input_BLW, class_index_B, strict=True)
        ]
        map_Bhw = map_Bhw + self.config.ot_weight * torch.stack(costs).view_as(map_Bhw)
        return _upsampled(map_Bhw, self.size, self.config.score_pool_size)


class PlainSquad:
    """Trains and applies SQUAD on uint8 images, the discriminator included."""

    def __init__(self, problem: Problem, device: str) -> None:
        assert isinstance(problem.model, SquadConfig)
        self.config, self.size, context = problem.model, problem.image_size, problem.context
        self.backbone = PlainBackbone(problem).to(device)
        self.generator = Generator(
            problem.model,
            feature_channels=context.feature_channels,
            grid_side=context.grid_size[0],
            image_side=problem.image_size // problem.model.image_scale,
        ).to(device)
        self.discriminator = PatchDiscriminator(problem.model.image_width).to(device)
        self.optimizer = torch.optim.AdamW(self.generator.parameters(), lr=1e-3, weight_decay=1e-4)
        self.judge_optimizer = torch.optim.AdamW(self.discriminator.parameters(), lr=1e-3, weight_decay=1e-4)

    def step(self, images_B3SS: Tensor, class_index_B: Tensor) -> float:
        """One step of both networks; the generator's loss."""
        self.backbone.train()
        self.generator.train()
        self.discriminator.train()
        features_BChw, target_B3TT = self.backbone(images_B3SS), self._target(images_B3SS)
        made = self.generator(features_BChw)
        made_B3TT, head = made.image_B3TT, self.generator.image_head
        assert made_B3TT is not None
        assert head is not None
        feature_loss = F.mse_loss(made.features_BChw, features_BChw)
        feature_loss = (
            feature_loss + (1 - F.cosine_similarity(made.features_BChw, features_BChw, dim=1)).mean()
        )
        image_loss = F.l1_loss(made_B3TT, target_B3TT) + 0.5 * _ssim_error(made_B3TT, target_B3TT).mean()
        adversarial = -self.discriminator(made_B3TT).mean()
        last = head.last.weight
        (image_gradient,) = torch.autograd.grad(image_loss, last, retain_graph=True)
        (judged_gradient,) = torch.autograd.grad(adversarial, last, retain_graph=True)
        weight = (image_gradient.norm() / (judged_gradient.norm() + 1e-4)).clamp(max=1e4).detach()
        loss = feature_loss + image_loss + 0.1 * weight * adversarial
        _descend(self.optimizer, self.generator, loss)
        real, fake = self.discriminator(target_B3TT), self.discriminator(made_B3TT.detach())
        judge_loss = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
        _descend(self.judge_optimizer, self.discriminator, judge_loss)
        for part in (feature_loss, image_loss, adversarial, weight, judge_loss):
            part.item()
        return loss.item()

    @torch.no_grad()
    def predict(self, images_B3SS: Tensor, class_index_B: Tensor) -> Maps:
        self.backbone.eval()
        self.generator.eval()
        self.discriminator.eval()
        features_BChw, target_B3TT = self.backbone(images_B3SS), self._target(images_B3SS)
        made = self.generator(features_BChw)
        assert made.image_B3TT is not None
        size = (self.size, self.size)
        maps_BSS = (1 - F.cosine_similarity(made.features_BChw, features_BChw, dim=1))[:, None]
        maps_BSS = maps_BSS + (made.features_BChw - features_BChw).norm(dim=1)[:, None]
        maps_BSS = F.interpolate(maps_BSS, size, mode="bilinear", align_corners=True)
        parts = [_ssim_error(made.image_B3TT, target_B3TT).mean(1, keepdim=True)]
        stages = zip(
            self.discriminator.features(made.image_B3TT),
            self.discriminator.features(target_B3TT),
            strict=True,
        )
        parts += [(a - b).abs().mean(1, keepdim=True) for a, b in stages]
        for part in parts:
            maps_BSS = maps_BSS + 0.1 * F.interpolate(part, size, mode="bilinear")
        smoothed = [gaussian_filter(x, self.config.smoothing_sigma) for x in maps_BSS[:, 0].cpu().numpy()]
        smoothed_B1SS = torch.from_numpy(np.stack(smoothed))[:, None]
        return _scored(smoothed_B1SS, self.config.score_pool_size)

    def _target(self, images_B3SS: Tensor) -> Tensor:
        return F.avg_pool2d(images_B3SS.float() / 127.5 - 1, self.config.image_scale)


def plain(problem: Problem, device: str) -> PlainHvq | PlainSquad:
    """The plain loop of the problem's model."""
    return (
        PlainSquad(problem, device) if isinstance(problem.model, SquadConfig) else PlainHvq(problem, device)
    )


def _descend(optimizer: torch.optim.Optimizer, module: nn.Module, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()


def _upsampled(map_Bhw: Tensor, size: int, pool_size: int) -> Maps:
    return _scored(
        F.interpolate(map_Bhw[:, None], (size, size), mode="bilinear", align_corners=True), pool_size
    )


def _scored(maps_B1SS: Tensor, pool_size: int) -> Maps:
    scores_B = F.avg_pool2d(maps_B1SS, pool_size, stride=1).flatten(1).amax(1)
    return maps_B1SS[:, 0].cpu().numpy(), scores_B.cpu().numpy()


def _ssim_error(x_B3TT: Tensor, y_B3TT: Tensor) -> Tensor:
    """1 - SSIM per pixel and channel, the window (11 x 11 Gaussian, sigma 1.5) as a grouped convolution."""
    offset = torch.arange(-5, 6, dtype=torch.float32, device=x_B3TT.device)
    line = (-(offset**2) / 4.5).exp()
    window = (line[:, None] * line)[None, None].expand(3, 1, -1, -1) / line.sum() ** 2

    def blur(image: Tensor) -> Tensor:
        return F.conv2d(F.pad(image, (5, 5, 5, 5), mode="reflect"), window, groups=3)

    x, y = (x_B3TT.float() + 1) / 2, (y_B3TT.float() + 1) / 2
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
    return 1 - luminance * (2 * cov + 9e-4) / (var_x + var_y + 9e-4)
