"""The best configurations retrained over seeds: what `best/metrics.json` says of them under `confirm`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

NO_QUANTIZER: Final = "no_quantizer"
"""The baseline that is the best configuration without a quantiser."""
OTHER_SWEEP: Final = "sweep "
"""What the name of a baseline that is another sweep's best model begins with; that sweep's name follows."""
_WITHOUT_QUANTIZER = "-no-quantizer"
Interval = Literal["bootstrap over images and seeds", "bootstrap over images", "t over seeds"]


@dataclass(frozen=True)
class Spread:
    """One metric over the seeds. Whatever is undefined for one seed has no mean either."""

    values: list[float | None]
    """A value a seed, in the order of `ConfirmedConfiguration.seeds`."""
    mean: float | None
    std: float | None
    """Sample standard deviation (n - 1) over the seeds; null for a single seed."""
    low: float | None = None
    """Lower end of the 95 % interval of the mean."""
    high: float | None = None
    interval: Interval | None = None
    """What the interval was taken over; null where there is none."""


@dataclass(frozen=True)
class ConfirmedConfiguration:
    """One trial's configuration over the seeds that were trained to the end."""

    trial_id: str
    """The trial of the search that found it; `t0004-no-quantizer` for that of `t0004` without a quantiser, a baseline."""
    seeds: list[int]
    run_ids: list[str]
    """The retraining runs, a run a seed."""
    metrics: dict[str, Spread]
    """Flat names of `val` and `test`; intervals are given on `test`."""
    failed: dict[str, str]
    """Run id to its error, of the seeds that failed; a configuration with any is never the best one."""
    more: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Flat name of a metric on `test` to the 95 % interval of what the best configuration's mean has more; empty for that one itself."""


def no_quantizer_id(trial_id: str) -> str:
    """What a trial's configuration without a quantiser is called, and a run of it."""
    return f"{trial_id}{_WITHOUT_QUANTIZER}"


def is_without_quantizer(run_id: str) -> bool:
    """Whether `no_quantizer_id` made it."""
    return run_id.endswith(_WITHOUT_QUANTIZER)


def confirm_record(confirmed: list[ConfirmedConfiguration]) -> list[dict[str, Any]]:
    """As JSON has it."""
    return [
        {
            **dataclasses.asdict(each),
            "more": {name: {"low": low, "high": high} for name, (low, high) in each.more.items()},
        }
        for each in confirmed
    ]


def read_confirm_record(content: list[dict[str, Any]]) -> list[ConfirmedConfiguration]:
    """What `confirm_record` made a record of."""
    return [
        ConfirmedConfiguration(
            **{
                **each,
                "metrics": {name: Spread(**spread) for name, spread in each["metrics"].items()},
                "more": read_intervals(each),
            }
        )
        for each in content
    ]


def read_intervals(entry: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """What an entry of `confirm` or `baselines` has under `more`; empty where an earlier version wrote it."""
    return {name: (interval["low"], interval["high"]) for name, interval in entry.get("more", {}).items()}
