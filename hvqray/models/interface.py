"""What the training loop, evaluation and commands ask of a model. Imports no Ray.

Shapes: B batch (this rank's part), H x W image, A alternative maps, S rules for the image score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from jaxtyping import Float, Int
from torch import Tensor, nn

from hvqray.models.batch import Batch, RouteImages
from hvqray.models.image_score import ImageScore
from hvqray.models.random_stream import RandomStream
from hvqray.models.residual_distance import ErrorMap
from hvqray.models.route_choice import Candidates, RouteChoice
from hvqray.models.router import Router


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
