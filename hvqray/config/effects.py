"""Options that have an effect only beside another option's value."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from hvqray.config.data_sections import BackboneConfig
from hvqray.config.faults import show


class Effect(NamedTuple):
    """`field` has an effect where `is_on` holds for the value of `gate`."""

    field: str
    gate: str
    is_on: Callable[[Any], bool]
    condition: str | None = None
    """The `when` that says so, where a single value does."""
    otherwise: tuple[str, Callable[[Any], bool]] | None = None
    """Another gate, beside which it has an effect too."""

    def gates(self) -> tuple[str, ...]:
        return (self.gate, self.otherwise[0]) if self.otherwise else (self.gate,)

    def holds(self, config: Mapping[str, Any]) -> bool:
        """Whether the field has an effect in a whole configuration (dotted path to value), which has its gates."""
        if self.is_on(config[self.gate]):
            return True
        return self.otherwise is not None and self.otherwise[1](config[self.otherwise[0]])

    def told(self, config: Mapping[str, Any]) -> str:
        """`model.quantizer is fsq`: what its gates are."""
        return " and ".join(f"{gate} is {show(config[gate])}" for gate in self.gates())


def _at(gate: str, values: tuple[Any, ...], *fields: str) -> tuple[Effect, ...]:
    """`fields` have an effect where `gate` has one of `values`, or is a list (an entry for each level) with one of them."""
    section = gate.rpartition(".")[0]
    condition = f"{{{gate}: {values[0]}}}"

    def is_on(value: Any) -> bool:
        return any(one in values for one in (value if isinstance(value, list) else [value]))

    return tuple(Effect(f"{section}.{name}", gate, is_on, condition) for name in fields)


EFFECTS: tuple[Effect, ...] = (
    *_at(
        "model.quantizer",
        ("vq",),
        "codebook_size",
        "codebook_growth",
        "ema_decay",
        "commitment_weight",
        "codebook_init",
    ),
    *_at("model.quantizer", ("vq",), "revive_dead_codes", "revive_after", "ot_weight", "ot_levels"),
    *_at("model.quantizer", ("fsq",), "fsq_levels"),
    *_at("model.revive_dead_codes", (True,), "revive_after"),
    *_at("model.image_head", (True,), "image_scale", "image_width", "image_l1_weight", "image_ssim_weight"),
    *_at("model.image_head", (True,), "discriminator", "discriminator_start", "adversarial_weight"),
    *_at("model.image_head", (True,), "map_image_weight", "map_discriminator_weight"),
    *_at("model.discriminator", (True,), "discriminator_start", "adversarial_weight"),
    *_at("model.discriminator", (True,), "map_discriminator_weight"),
    *_at("model.map_distance", ("local_mahalanobis",), "map_shrinkage"),
    Effect("model.map_code_weight", "model.feature_codes", lambda number: number != 0),
    Effect("model.map_code_weight", "model.map_from", lambda source: source not in ("fine", ["fine"])),
    Effect("model.map_coarse_weight", "model.map_from", lambda source: "all" in source),
    Effect(
        "model.feature_codes",
        "model.map_code_weight",
        lambda weight: weight != 0,
        otherwise=("model.score_from", lambda source: "codes" in source),
    ),
    Effect("model.score_code_weight", "model.score_from", lambda source: "codes" in source),
    Effect("model.ot_levels", "model.ot_weight", lambda weight: weight != 0),
    Effect("model.ot_weight", "model.ot_levels", lambda levels: levels != []),
    *_at("train.schedule", ("constant", "cosine"), "warmup_fraction"),
    *_at("data.validation.from", ("test", "synthetic"), "fraction", "seed"),
    *(
        Effect(field, "data.backbone.name", lambda name: not BackboneConfig(name=name).is_named_vit())
        for field in ("data.backbone.strides", "data.backbone.grid_stride")
    ),
)
GATES = frozenset(gate for effect in EFFECTS for gate in effect.gates())


def without_effect(config: Mapping[str, Any], searched: Collection[str] = ()) -> Iterator[Effect]:
    """What has no effect in a whole configuration (dotted path to value); what is switched off needs none, unless it is `searched`."""
    for effect in EFFECTS:
        if not config.keys() >= {effect.field, *effect.gates()} or effect.holds(config):
            continue
        if effect.field in searched or not _is_switched_off(effect.field, config[effect.field]):
            yield effect


def _is_switched_off(field: str, value: Any) -> bool:
    is_switch = isinstance(value, bool) or field.endswith("_weight") or field == "model.feature_codes"
    return is_switch and value == 0
