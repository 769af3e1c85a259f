"""What a sweep's folder says besides its trials: what was searched for and on what, and the best model's results."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from hvqray.config.yaml_loader import load_yaml
from hvqray.errors import InputError
from hvqray.results.baseline_table import BaselineRecord, read_baselines
from hvqray.results.confirmation import ConfirmedConfiguration, Spread, read_confirm_record
from hvqray.results.events import Goal
from hvqray.results.history import Metrics


@dataclass(frozen=True)
class SweepDescription:
    """What every reader of a sweep says about where its numbers come from; from `sweep.yaml`, and what trials may differ in from `best/config.yaml`."""

    name: str
    description: str | None
    project: str | None
    entity: str | None
    goals: dict[str, Goal]
    """Metric to goal, in the order of the file."""
    dataset: str
    """Name of the dataset's folder (not its path), or `built-in synthetic set`."""
    image_size: str
    """Pixels, of the best model where there is one; else what the search takes, such as `64 or 96`."""
    validation: str
    """How `val` was made: `test`, `synthetic` or `none`."""
    seed: str
    """Likewise."""
    classes: list[str] | None = None
    """Those that were taken, where the file names them; None means all."""

    @property
    def selected_on_test(self) -> bool:
        return self.validation == "none"


@dataclass(frozen=True)
class BestResult:
    """`best/metrics.json`."""

    trial_id: str
    """The trial of the search that found the configuration."""
    run_id: str
    """The run that the model is from: the trial itself, or its retraining with another seed."""
    selected_on_test: bool
    metrics: Metrics
    """Flat names, `val/...` and `test/...`."""
    environment: dict[str, str]
    confirmed: list[ConfirmedConfiguration]
    """The best configurations over seeds, best of the search first; empty where none was confirmed."""
    baselines: list[BaselineRecord] = field(default_factory=list)
    """What the best model is held against; empty where nothing was measured."""
    epoch: int | None = None
    """The epoch whose weights and metrics these are, from 1; None where the file does not say."""

    def held_against_baselines(self) -> tuple[str, Metrics]:
        """What is compared with the baselines, in words, and its metrics: the configuration's means over the seeds where it
        was confirmed, since its best seed alone would flatter it; else the model's own."""
        confirmed = self.held_configuration()
        if confirmed is None:
            return self.run_id, self.metrics
        means = {name: spread.mean for name, spread in confirmed.metrics.items()}
        seeds = confirmed.seeds
        over = f"mean over {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
        return f"{self.trial_id} ({over})", means

    def held_spreads(self) -> dict[str, Spread]:
        """The spreads of these means over the seeds; empty where it was not confirmed."""
        confirmed = self.held_configuration()
        return confirmed.metrics if confirmed is not None else {}

    def held_configuration(self) -> ConfirmedConfiguration | None:
        """The confirmed configuration that the model is of; None where it was not confirmed."""
        return next((each for each in self.confirmed if self.run_id in each.run_ids), None)


def read_description(folder: Path) -> SweepDescription:
    """What `sweep.yaml` says. Raises InputError where the folder has none, or it is not one of a sweep."""
    path = folder / "sweep.yaml"
    if not path.exists():
        raise InputError("sweep.yaml is missing: not a sweep's folder (OUT/NAME)", source=str(folder))
    content = load_yaml(path)  # as the sweep wrote it: to YAML 1.1 a class named 2024-01-01 would be a date
    if "metric" not in content:
        raise InputError(
            "missing: the sweep file as resolved names its metric", source=str(path), field="metric"
        )
    data = _section(content, "data", path)
    root = data.get("root")
    best_path = folder / "best" / "config.yaml"
    best = load_yaml(best_path) if best_path.exists() else {}

    def taken(section: str, key: str, default: int) -> str:
        of_best = _section(best, section, best_path).get(key)
        searched = _section(content, "parameters", path).get(f"{section}.{key}")
        if of_best is None and isinstance(searched, dict):
            return _values_text(searched)
        return str(_section(content, section, path).get(key, default) if of_best is None else of_best)

    return SweepDescription(
        name=str(content.get("name") or folder.resolve().name),
        description=content.get("description"),
        project=content.get("project"),
        entity=content.get("entity"),
        goals=_goals(content["metric"], path),
        dataset=Path(str(root)).name if root else "built-in synthetic set",
        image_size=taken("data", "image_size", 224),
        validation=_section(data, "validation", path).get("from", "test"),
        seed=taken("train", "seed", 0),
        classes=data.get("classes"),
    )


def _values_text(parameter: dict[str, Any]) -> str:
    """`64 or 96`, or `0 to 9`."""
    if "min" in parameter:
        return f"{parameter['min']} to {parameter.get('max')}"
    return " or ".join(map(str, parameter.get("values", [parameter.get("value")])))


def _goals(metrics: Any, path: Path) -> dict[str, Goal]:
    goals: dict[str, Goal] = {}
    for metric in metrics if isinstance(metrics, list) else [metrics]:
        goal = metric.get("goal") if isinstance(metric, dict) else None
        if goal not in get_args(Goal) or not isinstance(metric.get("name"), str):
            raise InputError(
                f"{metric!r} is no metric of a sweep, such as {{name: val/image_auroc, goal: maximize}}; restore the file as the"
                " sweep wrote it",
                source=str(path),
                field="metric",
            )
        goals[metric["name"]] = cast("Goal", goal)
    if not goals:
        raise InputError("is empty; restore the file as the sweep wrote it", source=str(path), field="metric")
    return goals


def _section(content: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    section = content.get(name)
    if section is not None and not isinstance(section, dict):
        raise InputError(
            f"{section!r} is no section of a sweep file; restore the file as the sweep wrote it",
            source=str(path),
            field=name,
        )
    return section or {}


def read_best(folder: Path) -> BestResult | None:
    """The best model's results, or None where the sweep has none (yet). Raises InputError where they are damaged."""
    path = folder / "best" / "metrics.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content["metrics"], dict):
            raise TypeError("metrics are no mapping")
        return BestResult(
            trial_id=content["trial_id"],
            run_id=content.get("run_id", content["trial_id"]),
            selected_on_test=content["selected_on_test"],
            metrics=content["metrics"],
            environment={name: str(value) for name, value in content.get("environment", {}).items()},
            confirmed=read_confirm_record(content.get("confirm", [])),
            baselines=read_baselines(content.get("baselines", [])),
            epoch=content.get("epoch"),
        )
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"is damaged ({type(error).__name__}: {error}); hvqray.sweep with --resume lays best/ out again with all its figures, as long"
            " as .state is there; else restore the file from a copy",
            source=str(path),
        ) from error
