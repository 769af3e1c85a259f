"""What the training loop, evaluation and commands ask of a model. Imports no Ray.

Shapes: B batch (this rank's part), C feature channels, h x w feature grid, H x W image, M classes, A alternative maps,
S rules for the image score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hvqray.models.image_score import ImageScore
from hvqray.models.route_choice import Candidates, RouteChoice

if TYPE_CHECKING:
    from hvqray.models.residual_distance import ErrorMap
    from hvqray.models.router import Router


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
    batches: Callable[[], Iterator[Batch]]
    """Starts a new pass over the images."""
    are_of_others: bool = False
    """Whether these are all images of all other routes, as none takes these routes."""


@dataclass(frozen=True)
class ModelContext:
    """The facts about the data that fix a model's shape and map; stored with every checkpoint."""

    class_names: tuple[str, ...]
    feature_channels: int
    grid_size: tuple[int, int]
    image_size: int
    grid_of_patches: bool = field(default=False, repr=False)
    """Whether each location is a patch of the image, as a plain ViT's are, and lies at its centre; a stage of a
    hierarchical network is brought onto the grid corner to corner. The backbone's name tells, so no checkpoint does."""

    @property
    def grid_stride(self) -> int:
        """Pixels of the image per location of the grid."""
        return self.image_size // self.grid_size[0]


class RandomStream:
    """Random draws for one step that do not depend on how the batch is split over ranks.

    Every rank seeds the same generator, draws for the whole global batch, and keeps its own rows; so two workers
    with half the batch each see the same dropout masks and noise as one worker with all of it. CPUs draw other masks than GPUs.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._generator = torch.Generator(device=device)
        self._bits = np.random.Generator(np.random.SFC64(0)) if self._generator.device.type == "cpu" else None
        self._rows = slice(None)
        self._num_rows: int | None = None

    def begin_step(self, seed: int, *, rows: slice, num_rows: int) -> None:
        """Start a step: `rows` of the global batch of `num_rows` images are this rank's."""
        self._generator.manual_seed(seed)
        if self._bits is not None:
            self._bits = np.random.Generator(np.random.SFC64(seed))
        self._rows, self._num_rows = rows, num_rows

    def keep_mask(self, like: Tensor, keep_probability: float) -> Tensor:
        """Bernoulli(keep_probability) in the shape and dtype of `like`, whose first dimension is this rank's images.

        The probability is met to 1 / 65536: four decisions from one 64-bit draw cost a third of `bernoulli_`.
        """
        shape = (self._num_rows or like.shape[0], *like.shape[1:])
        count = math.prod(shape)
        uniform = self._words((count + 3) // 4).view(torch.int16)[:count].view(shape)[self._rows]
        highest_kept = max(1, round(keep_probability * 65536)) - 32769
        # Compared into the mask itself: by way of booleans it takes four times as long.
        return torch.le(uniform, highest_kept, out=torch.empty_like(uniform, dtype=like.dtype))

    def _words(self, count: int) -> Tensor:
        """`count` uniform draws of 64 bits, int64."""
        if self._bits is None:
            draws = torch.empty(count, dtype=torch.int64, device=self._generator.device)
            return draws.random_(-(2**63), None, generator=self._generator)
        # Half the time of torch's generator for CPUs, which no number of threads makes faster.
        lowest, highest = -(2**63), 2**63 - 1
        return torch.from_numpy(self._bits.integers(lowest, highest, count, dtype=np.int64, endpoint=True))

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal draws in the shape and dtype of `like`, whose first dimension is this rank's images."""
        shape = (self._num_rows or like.shape[0], *like.shape[1:])
        full = torch.empty(shape, dtype=like.dtype, device=like.device)
        return full.normal_(generator=self._generator)[self._rows]


@dataclass
class Objective:
    """One loss with its own parameters and optimiser; HVQ has one, SQUAD a generator's and a discriminator's.

    Each step, the loop takes the objectives in order: loss, backward, clip, optimiser step. Under DDP `module` is
    what is wrapped, so `loss` must reach parameters of this objective through nothing else, and must not leave
    gradients on another objective's parameters.
    """

    name: str
    module: nn.Module
    loss: Callable[[Batch, float], dict[str, Tensor]]
    """`loss(batch, progress)` with progress in [0, 1) through the run: scalar tensors, means over this rank's
    images; `loss` is the total that is differentiated, the other keys are detached parts for the log."""
    active: Callable[[float], bool] = field(default=lambda progress: True)
    """Whether the objective is trained at this progress."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of a batch of images."""

    maps_BHW: Tensor
    """float32 anomaly map at image size; higher is more anomalous."""
    scores_B: Tensor
    """float32 image score."""
    codes: dict[str, Tensor]
    """Level name (`top`, `q0`, ...) to int64 (B, n) codes in [0, codebook_size(level)); empty without a quantiser."""
    routed_class_B: Tensor | None = None
    """int64 class that the model took each image for; None where it is told the class, or asks for none."""
    candidates: Candidates | None = None
    """What `val` has to choose from; None where there is a single rule of everything."""

    @staticmethod
    def chosen(
        maps_BAHW: Float[Tensor, "B A H W"],
        scores_BS: Float[Tensor, "B S"],
        codes: dict[str, Tensor],
        route_B: Int[Tensor, " B"],
        *,
        router: Router,
        map_choice: RouteChoice,
        image_score: ImageScore,
    ) -> Prediction:
        """The map and the score by the rules of each image's route, of those by every rule."""
        has_maps, has_scores = map_choice.num_rules > 1, image_score.num_rules > 1
        candidates = Candidates(
            route_B,
            scores_BS=scores_BS if has_scores else None,
            maps_BAHW=maps_BAHW if has_maps else None,
        )
        return Prediction(
            map_choice.pick(maps_BAHW, route_B),
            image_score.pick(scores_BS, route_B),
            codes,
            route_B if router.mode == "predicted" else None,
            candidates if has_maps or has_scores else None,
        )


def alone(tensor: Tensor) -> Tensor:
    """The sum over all ranks where there is only one."""
    return tensor


class AnomalyModel(Protocol):
    """The contract of a model. All of its state (codebooks, statistics, counters) lies in parameters and buffers."""

    needs_images: bool
    codebooks_per_class: frozenset[str]
    """The levels at which every class has a codebook of its own, so that equal codes of two classes are different codes."""
    training: bool
    """As in `nn.Module`."""
    router: Router
    """Which codebooks, output weights and normal errors an image is predicted with: its route."""
    error_map: ErrorMap
    """What is measured for each route on normal images."""
    map_choice: RouteChoice
    """Which of several maps the images of a route have; an evaluation on `val` chooses."""
    image_score: ImageScore
    """Which rule gives the image score of a route; an evaluation on `val` chooses among several."""
    random: RandomStream
    all_reduce_sum_: Callable[[Tensor], Tensor]
    """Sums a tensor over all ranks, in place, and returns it; the training loop sets it where there are several."""
    objectives: list[Objective]

    def train(self, mode: bool = True) -> Any:
        """As in `nn.Module`."""
        ...

    def eval(self) -> Any:
        """As in `nn.Module`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """As in `nn.Module`."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """As in `nn.Module`."""
        ...

    def codebook_sizes(self) -> dict[str, int]:
        """Codes per level (of one class), in the order of the hierarchy from the top."""
        ...

    def prepare(self, batches: Callable[[], Iterator[Batch]], *, seed: int) -> None:
        """Before the first step: feature statistics, codebook start, class prototypes, from normal training images.

        `batches()` starts a new pass over (a bounded, class-covering sample of) the training images. Only rank 0
        calls this; its parameters and buffers are then copied to the others.
        """
        ...

    def after_step(self) -> None:
        """After the optimisers' step: apply the codebook statistics gathered in `loss`, summed over all ranks."""
        ...

    def calibrate(self, images: Iterable[RouteImages]) -> None:
        """Before an evaluation: statistics of the map on normal training images.

        Every rank calls this, each with the images of some routes or of none, all ranks together with those of every route once.
        What is measured for single routes (`error_map`) lies on the rank that had their images; the rest is equal on all ranks.
        """
        ...

    def predict(self, batch: Batch) -> Prediction:
        """Map, score and codes; in eval mode, without gradients."""
        ...
