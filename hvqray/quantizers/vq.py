"""Vector quantisation with codebooks learned by exponential moving averages (EMA), one codebook per class.

van den Oord et al., "Neural Discrete Representation Learning", arXiv 1711.00937, appendix A.1; per class as in
Lu et al., "Hierarchical Vector Quantized Transformer", arXiv 2310.14228.

Shapes: B images, L tokens, D code width, M classes, K codes per codebook, T training tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hvqray.quantizers.kmeans import kmeans_of_each

EPSILON = 1e-5
"""Laplace smoothing of the moving counts (van den Oord's)."""
LEAST_COUNT = 100 * EPSILON
"""Moving count below which smoothing takes more than 1 % of a code's length, on its way to zero."""
TINY = 1e-12
"""Norms below this count as this, so that the cosine with a zero vector is 0."""


class QuantizerOutput(NamedTuple):
    """What a quantiser makes of tokens."""

    quantized_BLD: Tensor
    """float32 codes; the gradient passes straight through to the input."""
    indices_BL: Tensor | None
    """int64 codes in [0, K); None where nothing is quantised."""
    commitment: Tensor
    """Scalar mean((sg[code] - x) ** 2); zero where codebooks are not learned."""


class VectorQuantizer(nn.Module):
    """The codebooks (M, K, D) of one level, looked up by class.

    In training mode `forward` gathers how many tokens chose each code, and their sum; `update` applies them once
    a step, after the sum over ranks:

        N <- d N + (1 - d) n,  m <- d m + (1 - d) sum(x),  code = m / [S (N + eps) / (S + K eps)],  S = sum_k N

    A class without tokens in a step is left as it is: its averages decay only when it is seen. N starts positive
    and m as N times the code, so a code that no token chooses does not grow, but for the smoothing's factor
    (S + K eps) / S. It keeps its size while N is far above eps, then shrinks towards zero with N.

    With `revive_after`, a code that no token chose in that many steps of its class splits one of the busiest
    codes of the step: it moves to the mean of the tokens that chose that code, and takes half of its count. This
    needs nothing but the summed statistics, so it is the same on every rank, whichever had the tokens.
    """

    codebook_MKD: Tensor
    ema_count_MK: Tensor
    ema_sum_MKD: Tensor
    used_MK: Tensor
    steps_unused_MK: Tensor
    statistics_S: Tensor

    def __init__(
        self,
        num_classes: int,
        codebook_size: int,
        dim: int,
        *,
        decay: float = 0.99,
        revive_after: int | None = None,
    ) -> None:
        """Codes start at N(0, 1) draws, each with the weight of one token; see `start_from_tokens` for k-means."""
        super().__init__()
        self.num_classes, self.codebook_size, self.dim = num_classes, codebook_size, dim
        self.decay, self.revive_after = decay, revive_after
        shape = (num_classes, codebook_size)
        codebook_MKD = torch.randn(*shape, dim)
        self.register_buffer("codebook_MKD", codebook_MKD)
        self.register_buffer("ema_count_MK", torch.ones(shape))
        self.register_buffer("ema_sum_MKD", codebook_MKD.clone())
        self.register_buffer("used_MK", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("steps_unused_MK", torch.zeros(shape, dtype=torch.int64))
        # The step's sums, then its counts, lie in one buffer, so that one all-reduce carries both.
        statistics_S = torch.zeros(num_classes * codebook_size * (dim + 1))
        self.register_buffer("statistics_S", statistics_S, persistent=False)

    def forward(self, x_BLD: Float[Tensor, "B L D"], class_index_B: Int[Tensor, " #B"]) -> QuantizerOutput:
        """Nearest code of the image's class by squared Euclidean distance, in float32 whatever the autocast.

        The images have a class each, or one for all.
        """
        with torch.autocast(x_BLD.device.type, enabled=False):
            x_BLD = x_BLD.float()
            tokens_BLD = x_BLD.detach()
            indices_BL = self.nearest(tokens_BLD, class_index_B)
            rows_BL = indices_BL + class_index_B[:, None] * self.codebook_size
            code_BLD = self.codebook_MKD.flatten(0, 1)[rows_BL]
            if self.training:
                self._gather_statistics(tokens_BLD, rows_BL)
            commitment = (code_BLD - x_BLD).square().mean()
            # The last term is zero, so the value is the code to the bit; its gradient is the straight-through one.
            quantized_BLD = code_BLD + (x_BLD - tokens_BLD)
        return QuantizerOutput(quantized_BLD, indices_BL, commitment)

    def nearest(self, x_BLD: Float[Tensor, "B L D"], class_index_B: Int[Tensor, " #B"]) -> Int[Tensor, "B L"]:
        """The code of least ||x - c||^2; ||x||^2 is the same for all codes and left out."""
        codes_BKD = self.codebook_MKD[class_index_B]
        half_norm_B1K = 0.5 * codes_BKD.square().sum(-1)[:, None]
        # shape, not len(): that would fix the number of images of an exported graph.
        codes_BDK = codes_BKD.mT.expand(x_BLD.shape[0], -1, -1)
        return torch.baddbmm(half_norm_B1K, x_BLD, codes_BDK, alpha=-1).argmin(-1)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """The step's sums (M, K, D) and counts (M, K), as views."""
        num_codes = self.num_classes * self.codebook_size
        sums, counts = self.statistics_S.split([num_codes * self.dim, num_codes])
        return sums.view_as(self.codebook_MKD), counts.view_as(self.ema_count_MK)

    def _gather_statistics(self, x_BLD: Tensor, rows_BL: Tensor) -> None:
        sum_MKD, count_MK = self._statistics()
        rows_T = rows_BL.flatten()
        sum_MKD.flatten(0, 1).index_add_(0, rows_T, x_BLD.flatten(0, 1))
        count_MK.flatten().index_add_(0, rows_T, torch.ones_like(rows_T, dtype=torch.float32))

    @torch.no_grad()
    def update(self, all_reduce_sum_: Callable[[Tensor], Tensor]) -> None:
        """Apply the statistics of the step, summed over all ranks by `all_reduce_sum_` (in place), and clear them."""
        all_reduce_sum_(self.statistics_S)
        sum_MKD, count_MK = self._statistics()
        seen_M = count_MK.sum(1) > 0
        chosen_MK = count_MK > 0
        # A decay of 1 leaves an unseen class as it is, as it has nothing to add either.
        decay_M1 = torch.where(seen_M, self.decay, 1.0)[:, None]
        self.ema_count_MK.mul_(decay_M1).add_(count_MK, alpha=1 - self.decay)
        self.ema_sum_MKD.mul_(decay_M1[..., None]).add_(sum_MKD, alpha=1 - self.decay)
        self.used_MK |= chosen_MK
        self.steps_unused_MK += seen_M[:, None].long()
        self.steps_unused_MK.masked_fill_(chosen_MK, 0)
        codebook_MKD = self.ema_sum_MKD / self._smoothed_count()[..., None]
        self.codebook_MKD.copy_(torch.where(seen_M[:, None, None], codebook_MKD, self.codebook_MKD))
        if self.revive_after is not None:
            self._revive(sum_MKD, count_MK, self.revive_after)
        self.statistics_S.zero_()

    def _smoothed_count(self) -> Tensor:
        total_M1 = self.ema_count_MK.sum(1, keepdim=True)
        return total_M1 * (self.ema_count_MK + EPSILON) / (total_M1 + self.codebook_size * EPSILON)

    def _revive(self, sum_MKD: Tensor, count_MK: Tensor, revive_after: int) -> None:
        """The j-th dead code of a class splits its j-th busiest code, where that was chosen at least twice."""
        dead_MK = self.steps_unused_MK >= revive_after
        rank_MK = dead_MK.cumsum(1) - 1
        busiest_count_MK, busiest_MK = count_MK.sort(dim=1, descending=True, stable=True)
        # `source` is, for every dead code, the code it splits; what it holds for the living is never read.
        source_MK = busiest_MK.gather(1, rank_MK.clamp(min=0))
        split_MK = dead_MK & (busiest_count_MK.gather(1, rank_MK.clamp(min=0)) >= 2)

        # A source gives half of its averages away: its code, the ratio of the two, stays where it is.
        halved_MK = torch.zeros_like(count_MK).scatter_add(1, source_MK, split_MK.float()) > 0
        self.ema_count_MK.mul_(torch.where(halved_MK, 0.5, 1.0))
        self.ema_sum_MKD.mul_(torch.where(halved_MK, 0.5, 1.0)[..., None])

        mean_MKD = sum_MKD / count_MK.clamp(min=1)[..., None]
        new_code_MKD = mean_MKD.gather(1, source_MK[..., None].expand_as(mean_MKD))
        new_count_MK = self.ema_count_MK.gather(1, source_MK)
        split_MK1 = split_MK[..., None]
        self.ema_count_MK.copy_(torch.where(split_MK, new_count_MK, self.ema_count_MK))
        self.ema_sum_MKD.copy_(
            torch.where(split_MK1, new_code_MKD * new_count_MK[..., None], self.ema_sum_MKD)
        )
        self.codebook_MKD.copy_(torch.where(split_MK1, new_code_MKD, self.codebook_MKD))
        self.steps_unused_MK.masked_fill_(split_MK, 0)

    @torch.no_grad()
    def start_from_tokens(self, tokens: Mapping[int, Float[Tensor, "T D"]], *, seed: int) -> None:
        """Put the codes of each class at the k-means centres of its tokens, with counts to match; classes by their index.

        The counts are scaled to one token per code in the mean, so that the first steps soon outweigh them. Where
        there are fewer distinct tokens than codes, the codes left over stay where they are, as never used.
        """
        found = kmeans_of_each(list(tokens.values()), num_centres=self.codebook_size, seed=seed)
        for class_index, (centre_KD, index_T) in zip(tokens, found, strict=True):
            count_K = torch.bincount(index_T, minlength=self.codebook_size).to(self.ema_count_MK)
            share_K = count_K * (self.codebook_size / len(index_T))
            self.codebook_MKD[class_index, : len(centre_KD)] = centre_KD.to(self.codebook_MKD)
            self.ema_count_MK[class_index] = torch.where(count_K > 0, share_K, 1.0)
            self.ema_sum_MKD[class_index] = (
                self.codebook_MKD[class_index] * self.ema_count_MK[class_index, :, None]
            )
            self.used_MK[class_index] = count_K > 0

    def transport_cost(
        self, x_BLD: Float[Tensor, "B L D"], class_index_B: Int[Tensor, " #B"]
    ) -> Float[Tensor, "B L"]:
        """How badly the codes account for a token: sum_k (1 - cos(x, c_k)) p_k, p = softmax_k(x . c_k / K).

        HVQ-Trans's "OT" score, in float32. Codes never used, or no longer (`LEAST_COUNT`), take no part: a zero vector is as far from
        normal tokens as from others. A class whose codes all are is scored with all.
        """
        with torch.autocast(x_BLD.device.type, enabled=False):
            x_BLD = x_BLD.float()
            codes_BKD = self.codebook_MKD[class_index_B]
            product_BLK = x_BLD @ codes_BKD.mT
            living_MK = self.used_MK & (self.ema_count_MK >= LEAST_COUNT)
            unused_B1K = ~living_MK[class_index_B][:, None]
            # The least finite value, not -inf: where every code is unused the softmax stays finite, and uniform.
            logits_BLK = (product_BLK / self.codebook_size).masked_fill(
                unused_B1K, torch.finfo(torch.float32).min
            )
            # Norms are divided out code by code and token by token; the product above is the only large one.
            scale_B1K = 1 / codes_BKD.norm(dim=-1).clamp(min=TINY)[:, None]
            similarity_BL = (logits_BLK.softmax(-1) * product_BLK * scale_B1K).sum(-1)
            return 1 - similarity_BL / x_BLD.norm(dim=-1).clamp(min=TINY)
