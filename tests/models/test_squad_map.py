"""SQUAD's map of several parts: what is measured of them on normal images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hvqray.models.interface import alone
from hvqray.models.squad_map import ComponentMap

PARTS = {"large": (1000.0, 0.01, 5), "small": (-2.0, 3.0, 8)}
"""Mean, deviation and side of each. In float32 a sum of squares as large tells nothing of such a deviation."""


def measured_on(
    batches: list[dict[str, Tensor]], all_reduce_sum_: Callable[[Tensor], Tensor] = alone
) -> ComponentMap:
    found = ComponentMap(sorted(batches[0]), at_centres=(), image_size=16, smoothing_sigma=0.0)
    found.fit([(parts, 1.0) for parts in batches], all_reduce_sum_)
    return found


def test_parts_are_measured_over_the_images_of_all_ranks() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [
        {
            name: mean + std * torch.randn(num_images, side, side, generator=generator)
            for name, (mean, std, side) in PARTS.items()
        }
        for num_images in (4, 2, 3)
    ]
    of_peer: list[Tensor] = []

    def keep(sums: Tensor) -> Tensor:
        of_peer.append(sums.clone())
        return sums

    measured_on(batches[1:], keep)
    found = measured_on(batches[:1], lambda sums: sums.add_(of_peer[0]))
    for index, name in enumerate(PARTS):
        values = torch.cat([parts[name].flatten() for parts in batches]).double()
        assert found.mean_n[index].item() == pytest.approx(values.mean().item(), rel=1e-6)
        assert found.std_n[index].item() == pytest.approx(values.std(correction=0).item(), rel=1e-3)


def test_a_part_that_does_not_vary_on_normal_images_is_left_unscaled() -> None:
    found = measured_on([{"flat": torch.full((2, 4, 4), 3.0)}])
    assert found.normalize({"flat": torch.full((1, 4, 4), 3.5)})["flat"].unique().item() == 0.5
