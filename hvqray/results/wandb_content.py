"""What W&B is told of a run, as far as that takes no W&B: its configuration, its pictures, and the best model's artifact."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable
from typing import Any

from hvqray.results.confirmation import NO_QUANTIZER, is_without_quantizer
from hvqray.results.events import TrialStart
from hvqray.results.history import Metrics
from hvqray.results.shared_checkpoint import without_paths
from hvqray.results.sweep_folder import BestResult

_NUM_EXAMPLES = 16


def run_config(event: TrialStart) -> dict[str, Any]:
    """What a run's page shows as its configuration."""
    validation = (event.config.get("data") or {}).get("validation") or {}
    facts = {
        "params": event.params,
        "seed": event.seed,
        "selected_on_test": validation.get("from") == "none",
    }
    return without_paths({**event.config, **facts})


def run_tags(event: TrialStart) -> list[str]:
    """`search`; or `confirm`, of a baseline `no_quantizer`, and the trial whose configuration is retrained."""
    if event.confirms is None:
        return ["search"]
    return [NO_QUANTIZER if is_without_quantizer(event.trial_id) else "confirm", event.confirms]


def defined(metrics: Metrics) -> dict[str, float]:
    """Those that are; W&B would show the others as text."""
    return {name: value for name, value in metrics.items() if value is not None}


def example_stems(stems: Iterable[str]) -> list[str]:
    """Those of the examples `CLASS_NNN` that are shown, by name: 16 that the classes have equal shares in, and at least one a class."""
    by_class: dict[str, list[str]] = {}
    for stem in sorted(stems):
        by_class.setdefault(stem.rpartition("_")[0], []).append(stem)
    in_turns = [stem for turn in itertools.zip_longest(*by_class.values()) for stem in turn if stem]
    return sorted(in_turns[: max(_NUM_EXAMPLES, len(by_class))])


def artifact_metadata(best: BestResult) -> dict[str, Any]:
    """With the means only: W&B takes at most 100 keys. The classes' metrics are in the artifact's metrics.json."""
    means = {name: value for name, value in best.metrics.items() if name.count("/") == 1 and "." not in name}
    return {
        "trial_id": best.trial_id,
        "run_id": best.run_id,
        "selected_on_test": best.selected_on_test,
        **means,
    }


def artifact_name(sweep_name: str) -> str:
    """W&B allows letters, digits, `-`, `_` and `.` in an artifact's name."""
    allowed = (character if character.isalnum() or character in "-_." else "-" for character in sweep_name)
    return f"{''.join(allowed)}-best"


def model_digest(best: BestResult) -> str:
    """Tells a model of a run from another: by its epoch and all its metrics, in hex digits."""
    content = json.dumps([best.run_id, best.epoch, best.metrics], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
