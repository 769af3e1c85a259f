"""The metric by which an epoch of a run is chosen, and the rules of its map and score with it."""

from __future__ import annotations

from dataclasses import dataclass

from hvqray.config.metric_names import deciding_metrics, is_measured_on_pixels
from hvqray.training.rule_choice import ChosenBy


@dataclass(frozen=True)
class Selection:
    """By which metric a run's epoch is chosen."""

    metric: str = "val/image_auroc"
    maximize: bool = True

    def is_better(self, value: float | None, than: float | None) -> bool:
        """Whether `value` beats `than`; an undefined value beats nothing, any value beats an undefined one."""
        if value is None:
            return False
        return than is None or (value > than if self.maximize else value < than)

    def needs_pixels(self) -> bool:
        """Whether nothing can be chosen without pixel metrics."""
        return is_measured_on_pixels(self.metric)

    def of_rules(self) -> ChosenBy:
        """By which metrics an evaluation chooses its rules: the part of this one that they decide."""
        return ChosenBy(*deciding_metrics(self.metric))
