"""The keys of a sweep file that say what a search optimises, and which rule stops hopeless trials."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator, model_validator

from hvqray.config.metric_names import metric_name_fault
from hvqray.config.section import Fraction, PositiveInt, Section


class Metric(Section):
    """One objective of the search."""

    name: str
    """`val/METRIC` (mean over classes) or `val/CLASS/METRIC`."""
    goal: Literal["maximize", "minimize"]
    """Which way is better; always stated, as W&B's own default is `minimize`."""
    target: Fraction | None = None
    """The search starts no more trials once one has reached this value, from 0 to 1 as every metric."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if fault := metric_name_fault(name):
            raise ValueError(fault)
        return name


class Hyperband(Section):
    """Successive halving (W&B's `hyperband`): at each rung, trials behind the best 1/eta stop.

    Rungs lie at epochs `min_iter * eta**k`; or, with `max_iter` and `s`, at `max_iter / eta**k` for k = 1..s.
    """

    type: Literal["hyperband"]
    """Which rule."""
    min_iter: PositiveInt | None = None
    """Epoch of the first rung."""
    max_iter: PositiveInt | None = None
    """No rung lies beyond this epoch; by default the number of epochs of a trial."""
    eta: float = Field(default=3.0, gt=1, allow_inf_nan=False)
    """Ratio of one rung's epoch to the one before, and of the trials at a rung to those that go on."""
    s: PositiveInt | None = None
    """Number of rungs, counted down from `max_iter`; in place of `min_iter`."""

    @model_validator(mode="after")
    def _one_form(self) -> Hyperband:
        if (self.min_iter is None) == (self.s is None):
            raise ValueError("give either min_iter, or both max_iter and s")
        if self.s is not None and self.max_iter is None:
            raise ValueError("s counts rungs down from max_iter, which is missing; add it, or use min_iter")
        if self.s is not None and self.s > 700 / math.log(self.eta):  # beyond, eta**s is no number
            raise ValueError(f"s {self.s} is too many rungs for eta {self.eta:g}; lower it")
        if self.min_iter is not None and self.max_iter is not None and self.min_iter > self.max_iter:
            raise ValueError(f"min_iter {self.min_iter} is above max_iter {self.max_iter}; swap them")
        return self

    def first_rung(self) -> int:
        """Epoch of the first rung, at least 1."""
        if self.min_iter is not None:
            return self.min_iter
        assert self.max_iter is not None
        assert self.s is not None
        return max(1, int(self.max_iter / self.eta**self.s))

    def last_rung(self, epochs: int) -> float:
        """Epoch beyond which no rung lies, of trials that have at most so many."""
        last = min(self.max_iter or epochs, epochs)
        if self.s is None:
            return last
        assert self.max_iter is not None
        first = self.first_rung()
        # `max_iter` itself is no rung, nor is another one that fits below it where the first was rounded down.
        return min(last, first * self.eta ** (self.s - 1), max(first, self.max_iter / self.eta))


class Median(Section):
    """Stop a trial whose best value is worse than the median of the other trials' running means."""

    type: Literal["median"]
    """Which rule."""
    min_iter: PositiveInt = 1
    """Epochs that every trial gets."""

    def first_rung(self) -> int:
        """Epoch at which a trial can be stopped for the first time."""
        return self.min_iter


EarlyTerminate = Hyperband | Median
