"""Images on their way into a model, and the normal images that its map is measured on.

Shapes: B batch (this rank's part), C feature channels, h x w feature grid, H x W image, M classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Some images of one step or of one evaluation pass, on the model's device."""

    features_BChw: Tensor
    """float32, straight from the cache (not standardised)."""
    class_index_B: Tensor
    """int64, in [0, M)."""
    images_B3HW: Tensor | None = None
    """uint8 RGB at image size; None unless the model says `needs_images`."""


@dataclass(frozen=True)
class RouteImages:
    """Normal training images on which a model measures its map for some of its routes."""

    routes: tuple[int, ...]
    """One, which takes all of these images; several only where `are_of_others`."""
    num_images: int
    """Of a whole pass."""
    batches: Callable[[int | None], Iterator[Batch]]
    """Starts a new pass over all images, or over so many at most, spread evenly over them."""
    are_of_others: bool = False
    """Whether these are all images of all other routes, as none takes these routes."""
