"""What two ranks share: after every step the same codes, after every exchange the same state, however uneven the batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from ray_head import unused_port
from tiny_data import tiny_data
from torch import Tensor, nn
from two_ranks import run_two_ranks

from hvqray.config.model_sections import HvqConfig, SquadConfig
from hvqray.config.sections import RunConfig, TrainConfig
from hvqray.models import squad
from hvqray.quantizers.vq import VectorQuantizer
from hvqray.training import loop
from hvqray.training.communicator import Communicator, ProcessGroup
from hvqray.training.lasting_state import MEASURED_ANEW, lasting_state, share_state
from hvqray.training.selection import Selection

HVQ = HvqConfig(width=16, num_heads=2, feedforward_width=16, codebook_size=12, score_pool_size=4)
SQUAD = SquadConfig(name="squad", width=16, quantizer="vq", codebook_size=12, score_pool_size=4)
CASES: dict[str, HvqConfig | SquadConfig] = {
    "kmeans": HVQ.model_copy(update={"router": "predicted", "map_distance": "mahalanobis"}),
    "shipped": HVQ.model_copy(
        update={
            "map_distance": "local_mahalanobis",
            "feature_codes": 20,
            "map_code_weight": 4.0,
            "map_coarse_weight": 0.5,
            "map_from": ["fine", "codes", "all"],
            "score_from": ["fine", "both", "codes"],
            "score_top_fraction": [0.0, 0.1],
        }
    ),
    "squad shipped": SQUAD.model_copy(
        update={
            "image_head": False,
            "router": "predicted",
            "map_distance": "local_mahalanobis",
            "feature_codes": 20,
            "map_code_weight": 4.0,
            "map_coarse_weight": 0.5,
            "map_from": ["fine", "codes", "all"],
            "score_from": ["fine", "both", "codes"],
        }
    ),
    "normal": HVQ.model_copy(update={"codebook_init": "normal"}),
    "revival": HVQ.model_copy(
        update={"codebook_init": "normal", "revive_dead_codes": True, "revive_after": 2}
    ),
    "squad": SQUAD.model_copy(update={"image_head": False}),
    "adversarial": SQUAD.model_copy(
        update={"image_scale": 1, "image_width": 4, "discriminator_start": 0.0, "adversarial_weight": 1.0}
    ),
}
# 14 + 9 + 5 images in batches of 5: the second rank has 2 of each, and seldom an image of every class.
TRAIN = TrainConfig(epochs=1, batch_size=5, lr=3e-3, precision="fp32")


class Watched(loop._Run):
    """A run that notes what its rank holds: all of it once it is evaluated, and at other exchanges all but what is measured
    for that; and the codes after every step."""

    def __init__(self, model: HvqConfig | SquadConfig, folder: Path) -> None:
        config = RunConfig(model=model, train=TRAIN)
        super().__init__(config, tiny_data(), folder, ProcessGroup("cpu"), Selection(), None, False)
        self.shared: list[dict[str, Tensor]] = []
        self.codes: list[str] = []
        self._update, self.model.after_step = self.model.after_step, self._watched_update
        if self.communicator.rank == 1:  # whatever is not shared stays wrong
            for tensor in self.module.state_dict().values():
                tensor.fill_(1)

    def share_state(self, module: nn.Module, communicator: Communicator) -> None:
        share_state(module, communicator)
        self.shared.append({name: tensor.clone() for name, tensor in lasting_state(module).items()})

    def _evaluate(self, *, is_last: bool) -> dict[str, float | None]:
        metrics = super()._evaluate(is_last=is_last)
        self.shared.append({name: tensor.clone() for name, tensor in self.module.state_dict().items()})
        return metrics

    def _watched_update(self) -> None:
        self._update()
        self.codes.append(digest_of_codes(self.module))


def digest_of_codes(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for level in model.modules():
        if isinstance(level, VectorQuantizer):
            for tensor in level.state_dict().values():
                digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _rank(rank: int, root: str) -> None:
    for case, model in CASES.items():
        run = Watched(model, Path(root, case))
        weights: list[float] = []
        with (
            patch.object(squad, "adaptive_weight", _noted(squad.adaptive_weight, weights)),
            patch.object(loop, "share_state", run.share_state),
        ):
            list(run.epochs())
        noted = {"shared": run.shared, "codes": run.codes, "weights": weights}
        torch.save(noted, Path(root, f"{case}-{rank}.pt"))


def _noted(function: Callable[..., Tensor], results: list[float]) -> Callable[..., Tensor]:
    def call(*arguments: Tensor, **options: Any) -> Tensor:
        result = function(*arguments, **options)
        results.append(result.item())
        return result

    return call


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    root = tmp_path_factory.mktemp("ranks")
    run_two_ranks(_rank, unused_port(), str(root))
    return {case: [torch.load(root / f"{case}-{rank}.pt") for rank in range(2)] for case in CASES}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_codes_are_identical_after_every_step(ranks: dict[str, list[dict[str, Any]]], case: str) -> None:
    first, second = (rank["codes"] for rank in ranks[case])
    assert first == second
    assert len(set(first)) == len(first) == 5


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_everything_is_identical_after_every_exchange(
    ranks: dict[str, list[dict[str, Any]]], case: str
) -> None:
    for first, second in zip(*(rank["shared"] for rank in ranks[case]), strict=True):
        assert first.keys() == second.keys()
        for name, tensor in first.items():
            assert torch.equal(tensor, second[name]), name


@pytest.mark.slow
def test_both_ranks_weigh_the_adversarial_term_alike(ranks: dict[str, list[dict[str, Any]]]) -> None:
    """By gradients summed over their 3 and 2 images: each rank's own would give weights of its own, and averages hide it."""
    first, second = (rank["weights"] for rank in ranks["adversarial"])
    assert first == second
    assert len(set(first)) == len(first) == 5
    assert min(first) > 0
    assert ranks["squad"][0]["weights"] == []


@pytest.mark.slow
def test_what_is_measured_before_training_reaches_the_other_rank(
    ranks: dict[str, list[dict[str, Any]]],
) -> None:
    data, second = tiny_data(), ranks["kmeans"][1]["shared"]
    start, end = second[0], second[-1]
    features = torch.from_numpy(data.splits["train"].features(range(28))).float()
    torch.testing.assert_close(start["standardizer.mean_C"], features.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert start["router.prototype_MC"].std() > 0
    assert start["network.top.used_MK"].float().mean() > 0.9, "k-means gave the codes"
    assert not ranks["normal"][1]["shared"][0]["network.top.used_MK"].any()
    fitted = [name for name in end if name.startswith(MEASURED_ANEW)]
    assert len(fitted) >= 2, "the errors' distribution, which is measured before an evaluation"
    assert not any((end[name] == 1).all() for name in fitted)


@pytest.mark.slow
def test_revival_took_place(ranks: dict[str, list[dict[str, Any]]]) -> None:
    """The two cases differ in revival alone."""
    plain, revived = (ranks[case][1]["codes"] for case in ("normal", "revival"))
    assert plain[0] == revived[0]
    assert plain[-1] != revived[-1]
