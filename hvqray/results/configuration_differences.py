"""What the best of the confirmed configurations has more than each of the others on `test`, for the terminal and the HTML report."""

from __future__ import annotations

from collections.abc import Sequence

from hvqray.results.baseline_table import BaselineRecord, BaselineTable, baseline_tables, headline
from hvqray.results.confirmation import ConfirmedConfiguration


def difference_tables(confirmed: Sequence[ConfirmedConfiguration], best_trial_id: str) -> list[BaselineTable]:
    """A table a configuration that the best one was held against, as of a baseline; none where no intervals were worked out."""
    best, others = _sides(confirmed, best_trial_id)
    return baseline_tables(best, others) if others else []


def difference_lines(
    confirmed: Sequence[ConfirmedConfiguration], best_trial_id: str, *, mark: str = ""
) -> list[str]:
    """A line a configuration: `t0004 against t0002: image AUROC +0.0123 (95 %: ..., not decided), ...`; `mark` follows "on test"."""
    best, others = _sides(confirmed, best_trial_id)
    return [f"{best_trial_id} {line}" for line in headline(best, others, mark=mark)] if others else []


def _sides(
    confirmed: Sequence[ConfirmedConfiguration], best_trial_id: str
) -> tuple[dict[str, float | None], list[BaselineRecord]]:
    """The best one's means, and the others' with the intervals of what it has more."""
    means = {each.trial_id: {name: one.mean for name, one in each.metrics.items()} for each in confirmed}
    others = [
        BaselineRecord(each.trial_id, {}, means[each.trial_id], each.more) for each in confirmed if each.more
    ]
    return means.get(best_trial_id, {}), others
