"""Every gain keeps the result: loss curves of a fixed seed, and maps of a fixed model, with each optimisation on and off.

Each line trains the same model from the same seed on the same batches twice. `kept` gains agree to rounding; where a curve moves, the
figure says by how much. Dropout's other generator draws other masks, so its line stands beside one of the same generator's other draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.commands import workplace
from benchmarks.measure import devices, print_table, quick_flag
from benchmarks.problems import Problem, problems, random_split
from benchmarks.product_step import ProductStep
from benchmarks.published_hvq import EPSILON
from benchmarks.same_maps import map_moves
from hvqray.config.model_sections import HvqConfig
from hvqray.data.dataset import Split
from hvqray.models.attention import Dropout
from hvqray.models.hvq import HvqModel
from hvqray.quantizers.vq import QuantizerOutput, VectorQuantizer

NUM_STEPS = 60
Change = Callable[[ProductStep], None]


class LoopedQuantizer(VectorQuantizer):
    """Looks codes up image by image, as the published code does, with statistics by one-hot products, once a step or once an image."""

    update_per_image = False

    def forward(self, x_BLD: Tensor, class_index_B: Tensor) -> QuantizerOutput:
        with torch.autocast(x_BLD.device.type, enabled=False):
            images = [self._one(x.float(), int(c)) for x, c in zip(x_BLD, class_index_B, strict=True)]
        codes, indices, terms = zip(*images, strict=True)
        return QuantizerOutput(torch.stack(codes), torch.stack(indices), torch.stack(terms).mean())

    def _one(self, x_LD: Tensor, c: int) -> tuple[Tensor, Tensor, Tensor]:
        codes_KD = self.codebook_MKD[c].clone()
        distance_LK = x_LD.square().sum(1, keepdim=True) + codes_KD.square().sum(1) - 2 * x_LD @ codes_KD.T
        indices_L = distance_LK.detach().argmin(1)
        one_hot_LK = torch.nn.functional.one_hot(indices_L, self.codebook_size).float()
        if self.training:
            self._gather(x_LD.detach(), one_hot_LK, c)
        code_LD = torch.nn.functional.embedding(indices_L, codes_KD)
        return code_LD + (x_LD - x_LD.detach()), indices_L, (code_LD - x_LD).square().mean()

    @torch.no_grad()
    def _gather(self, x_LD: Tensor, one_hot_LK: Tensor, c: int) -> None:
        if not self.update_per_image:
            sums_MKD, counts_MK = self._statistics()
            sums_MKD[c] += one_hot_LK.T @ x_LD
            counts_MK[c] += one_hot_LK.sum(0)
            return
        self.ema_count_MK[c] = self.decay * self.ema_count_MK[c] + (1 - self.decay) * one_hot_LK.sum(0)
        self.ema_sum_MKD[c] = self.decay * self.ema_sum_MKD[c] + (1 - self.decay) * one_hot_LK.T @ x_LD
        total = self.ema_count_MK[c].sum()
        smoothed_K = total * (self.ema_count_MK[c] + EPSILON) / (total + self.codebook_size * EPSILON)
        self.codebook_MKD[c] = self.ema_sum_MKD[c] / smoothed_K[:, None]


class BernoulliDropout(Dropout):
    """Draws its masks by torch's own Bernoulli generator."""

    def keep_mask(self, like: Tensor) -> Tensor:
        return torch.empty_like(like).bernoulli_(1 - self.probability)


def main(argv: Sequence[str] | None = None) -> None:
    quick = quick_flag("same result: loss curves and maps with optimisations on and off", argv)
    num_steps = 4 if quick else NUM_STEPS
    compared = problems(quick=quick)[:: 1 if quick else 2]
    for device in devices():
        rows = []
        for problem in compared:
            split = random_split(problem)
            base = _curve(problem, split, device, num_steps)
            rows += [
                [problem.name, "the same again", *_moved(base, _curve(problem, split, device, num_steps))]
            ]
            for name, (precision, change) in _changes(problem).items():
                other = _curve(problem, split, device, num_steps, precision=precision, change=change)
                rows += [[problem.name, name, *_moved(base, other)]]
        print(f"{device}, {num_steps} steps\n")
        print_table(
            (
                "model",
                "against the product in fp32",
                "first loss moved by",
                "largest move",
                "last loss moved by",
            ),
            rows,
        )
        with workplace() as folder:
            rows = [
                row for problem in compared for row in map_moves(problem, folder, device, num_steps=num_steps)
            ]
        print(f"{device}, evaluation: largest moves over the standard deviation, of scores and of maps\n")
        header = (
            "model",
            "against the product in fp32",
            "a score moved by",
            "a map moved by",
            "codes changed",
        )
        print_table(header, rows)


def _changes(problem: Problem) -> dict[str, tuple[str, Change | None]]:
    changes: dict[str, tuple[str, Change | None]] = {
        "bf16": ("bf16", None),
        "AdamW not fused": ("fp32", _plain_adamw),
    }
    if isinstance(problem.model, HvqConfig):
        changes["other draws of dropout"] = ("fp32", _other_draws)
        changes["dropout by torch's bernoulli_"] = ("fp32", _bernoulli_dropout)
    if problem.model.quantizer == "vq":
        changes["codebooks looped, one-hot sums"] = (
            "fp32",
            lambda step: _loop_codebooks(step, per_image=False),
        )
        changes["and an EMA update per image"] = ("fp32", lambda step: _loop_codebooks(step, per_image=True))
    return changes


def _curve(
    problem: Problem,
    split: Split,
    device: str,
    num_steps: int,
    *,
    precision: str = "fp32",
    change: Change | None = None,
) -> np.ndarray:
    """Losses (num_steps,) of the first objective."""
    step = ProductStep(problem, split, precision=precision, device=device)
    if change is not None:
        change(step)
    return torch.stack([step()["loss"].float() for _ in range(num_steps)]).cpu().numpy()


def _plain_adamw(step: ProductStep) -> None:
    for trainer in step.trainers:
        parameters = trainer.objective.module.parameters()
        config = step.train_config
        plain = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, foreach=False)
        trainer.optimizer = plain


def _other_draws(step: ProductStep) -> None:
    step.first_draw = 10**6


def _bernoulli_dropout(step: ProductStep) -> None:
    assert isinstance(step.model, HvqModel)
    for module in [*step.model.modules()]:
        if isinstance(own := getattr(module, "dropout", None), Dropout):
            module.dropout = BernoulliDropout(own.probability, step.model.random)


def _loop_codebooks(step: ProductStep, *, per_image: bool) -> None:
    assert isinstance(step.model, HvqModel)
    network = step.model.network
    for owner, name in [(network, "top"), *((network.lower, str(i)) for i in range(len(network.lower)))]:
        assert isinstance(owner, nn.Module)
        level = owner.get_submodule(name)
        assert isinstance(level, VectorQuantizer)
        looped = LoopedQuantizer(level.num_classes, level.codebook_size, level.dim, decay=level.decay)
        looped.load_state_dict(level.state_dict())
        looped.update_per_image = per_image
        owner.register_module(name, looped.to(level.codebook_MKD.device).train())


def _moved(base: np.ndarray, other: np.ndarray) -> list[str]:
    moves = np.abs(other - base) / np.abs(base)
    return [f"{value:.1e}" for value in (moves[0], moves.max(), moves[-1])]


if __name__ == "__main__":
    main()
