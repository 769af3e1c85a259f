"""Options that have an effect only beside another option's value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Effect = tuple[str, str, tuple[Any, ...]]

_QUANTIZER = "model.quantizer"
# (field, the field that gates it, the gate's values at which it has an effect)
EFFECTS: tuple[Effect, ...] = (
    *((f"model.{name}", _QUANTIZER, ("vq",)) for name in ("codebook_size", "ema_decay", "commitment_weight")),
    *(
        (f"model.{name}", _QUANTIZER, ("vq",))
        for name in ("codebook_init", "revive_dead_codes", "revive_after")
    ),
    *((f"model.{name}", _QUANTIZER, ("vq",)) for name in ("ot_weight", "ot_levels")),
    ("model.fsq_levels", _QUANTIZER, ("fsq",)),
    ("model.revive_after", "model.revive_dead_codes", (True,)),
    *(
        (f"model.{name}", "model.image_head", (True,))
        for name in ("image_scale", "image_width", "discriminator")
    ),
    *(
        (f"model.{name}", "model.image_head", (True,))
        for name in ("discriminator_start", "adversarial_weight")
    ),
    *((f"model.{name}", "model.image_head", (True,)) for name in ("image_l1_weight", "image_ssim_weight")),
    *(
        (f"model.{name}", "model.image_head", (True,))
        for name in ("map_image_weight", "map_discriminator_weight")
    ),
    *(
        (f"model.{name}", "model.discriminator", (True,))
        for name in ("discriminator_start", "adversarial_weight")
    ),
    ("model.map_discriminator_weight", "model.discriminator", (True,)),
    ("model.map_shrinkage", "model.map_distance", ("local_mahalanobis",)),
    ("train.warmup_fraction", "train.schedule", ("constant", "cosine")),
    ("data.validation.fraction", "data.validation.from", ("test", "synthetic")),
    ("data.validation.seed", "data.validation.from", ("test", "synthetic")),
)
GATES = frozenset(gate for _, gate, _ in EFFECTS)


def without_effect(config: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """The fields of a whole configuration (dotted path to value) that have no effect: field, gate, gate's values."""
    for field, gate, values in EFFECTS:
        if field in config and gate in config and config[gate] not in values:
            yield field, gate, values
