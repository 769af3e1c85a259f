"""What the best of the confirmed configurations has more than each of the others on `test`, for the terminal and the HTML report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hvqray.results import wording
from hvqray.results.baseline_table import BaselineRecord, BaselineTable, baseline_tables, headline
from hvqray.results.confirmation import ConfirmedConfiguration

Params = Mapping[str, Mapping[str, Any]]
"""Trial id to its parameters."""
_MOST_NAMED = 3
"""In how many parameters a configuration may differ from the best one for these to be told with its name."""


def difference_tables(
    confirmed: Sequence[ConfirmedConfiguration], best_trial_id: str, params: Params
) -> list[BaselineTable]:
    """A table a configuration that the best one was held against, as of a baseline; none where no intervals were worked out."""
    best, others = _sides(confirmed, best_trial_id, params)
    return baseline_tables(best, others) if others else []


def difference_lines(
    confirmed: Sequence[ConfirmedConfiguration], best_trial_id: str, params: Params, *, mark: str = ""
) -> list[str]:
    """A line a configuration: `t0004 against t0002 (width=64): image AUROC +0.0123 (95 %: ..., not decided), ...`; `mark` follows "on test"."""
    best, others = _sides(confirmed, best_trial_id, params)
    return [f"{best_trial_id} {line}" for line in headline(best, others, mark=mark)] if others else []


def _sides(
    confirmed: Sequence[ConfirmedConfiguration], best_trial_id: str, params: Params
) -> tuple[dict[str, float | None], list[BaselineRecord]]:
    """The best one's means, and the others' with the intervals of what it has more."""
    means = {each.trial_id: {name: one.mean for name, one in each.metrics.items()} for each in confirmed}
    others = [
        BaselineRecord(_named(each.trial_id, best_trial_id, params), {}, means[each.trial_id], each.more)
        for each in confirmed
        if each.more
    ]
    return means.get(best_trial_id, {}), others


def _named(trial_id: str, best_trial_id: str, params: Params) -> str:
    """`t0002 (quantizer=vq)`: with what it has other than the best one, where that is short."""
    best = params.get(best_trial_id, {})
    other = {
        name: value
        for name, value in params.get(trial_id, {}).items()
        if name not in best or best[name] != value
    }
    return f"{trial_id} ({wording.one_line(other)})" if 0 < len(other) <= _MOST_NAMED else trial_id
