"""One level of a hierarchy of codes: the three quantisers behind one call.

`level(x_BLD, class_index_B)` gives a `QuantizerOutput`, whichever `quantizer:` was chosen; `class_index_B` holds a class for
every image, or one for all.

Shapes: B images, L tokens, D width.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hvqray.config.model_sections import QuantizerFields, QuantizerName
from hvqray.models.code_tokens import CodeTokens
from hvqray.quantizers.fsq import FSQ
from hvqray.quantizers.vq import QuantizerOutput, VectorQuantizer


class FsqLevel(nn.Module):
    """FSQ between two linear maps, from the width to the number of FSQ levels and back; all classes share it."""

    def __init__(self, width: int, fsq_levels: list[int]) -> None:
        super().__init__()
        self.fsq = FSQ(fsq_levels)
        self.down = nn.Linear(width, len(fsq_levels))
        self.up = nn.Linear(len(fsq_levels), width)
        self.codebook_size: int = self.fsq.codebook_size

    def forward(self, x_BLD: Float[Tensor, "B L D"], class_index_B: Int[Tensor, " #B"]) -> QuantizerOutput:
        # In float32 to the end: rounded to bfloat16 before it, one projection in fifty would take another code.
        with torch.autocast(x_BLD.device.type, enabled=False):
            codes, indices_BL = self.fsq(self.down(x_BLD.float()))
            return QuantizerOutput(self.up(codes), indices_BL, codes.new_zeros(()))


class ContinuousLevel(nn.Module):
    """The latents as they are: the baseline without a quantiser."""

    codebook_size: None = None

    def forward(self, x_BLD: Float[Tensor, "B L D"], class_index_B: Int[Tensor, " #B"]) -> QuantizerOutput:
        return QuantizerOutput(x_BLD, None, x_BLD.new_zeros(()))


Level = VectorQuantizer | FsqLevel | ContinuousLevel


def build_level(
    config: QuantizerFields, quantizer: QuantizerName, codebook_size: int, *, num_classes: int, width: int
) -> Level:
    """A level with this quantiser, set as `config` says; `num_classes` codebooks of `codebook_size` with `vq`."""
    if quantizer == "vq":
        return VectorQuantizer(
            num_classes,
            codebook_size,
            width,
            decay=config.ema_decay,
            revive_after=config.revive_after if config.revive_dead_codes else None,
        )
    if quantizer == "fsq":
        return FsqLevel(width, config.fsq_levels)
    return ContinuousLevel()


def code_tokens(level: Level, output: QuantizerOutput, class_index_B: Int[Tensor, " #B"]) -> CodeTokens:
    """What `level` gave as tokens, together with its codes where these are fewer and no gradient passes to the input."""
    tokens_BLD, indices_BL = output.quantized_BLD, output.indices_BL
    # How many images an exported graph will see is not known. Both ways cost the same with
    # 0.9 codes a token, at widths 256 and 512, in fp32 and bf16; with 0.04 looking up costs a third to an eighth.
    if indices_BL is None or torch.is_grad_enabled() or torch.compiler.is_exporting():
        return CodeTokens(tokens_BLD)
    if isinstance(level, VectorQuantizer):
        if level.codebook_size * len(class_index_B) >= indices_BL.numel():
            return CodeTokens(tokens_BLD)
        first_row_B = level.codebook_size * torch.arange(len(class_index_B), device=indices_BL.device)
        codes_KD = level.codebook_MKD[class_index_B].flatten(0, 1)
        return CodeTokens(tokens_BLD, codes_KD, indices_BL + first_row_B[:, None])
    assert isinstance(level, FsqLevel)
    if level.codebook_size >= indices_BL.numel():
        return CodeTokens(tokens_BLD)
    every_code = level.fsq.indices_to_codes(torch.arange(level.codebook_size, device=indices_BL.device))
    return CodeTokens(tokens_BLD, level.up(every_code), indices_BL)
