"""The confirmed configurations per class, for the terminal and the HTML report."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from hvqray.config.metric_names import MAD
from hvqray.results import wording
from hvqray.results.class_table import ALL_LABELS, METRIC_LABELS, class_names, mean_note
from hvqray.results.confirmation import ConfirmedConfiguration, Spread
from hvqray.results.terminal_table import FigureRow, FigureTable
from hvqray.training.epoch_report import MEAN

TERMINAL_METRICS = ("image_auroc", "pixel_auroc", "pixel_aupro")
"""As many as fit 80 columns; the report has all seven."""
_SEEDS_WIDTH = 16


@dataclass(frozen=True)
class ConfirmTable:
    """One configuration's results on `split`; a row's spreads are in the order of `METRIC_LABELS`, None where not measured."""

    configuration: ConfirmedConfiguration
    split: str
    """`test`, or `val` where nothing was measured on it."""
    rows: list[tuple[str, list[Spread | None]]]
    """Class name and spreads, by name; the mean over the classes last."""
    notes: list[str]
    """mAD, what each kind of interval says, and which seeds failed."""
    mad: list[Spread | None] = field(default_factory=list)
    """The mAD of each row, for readers with room for it; empty where none was measured."""


def confirm_table(configuration: ConfirmedConfiguration) -> ConfirmTable:
    """The table of one configuration; no rows where all of its seeds failed."""
    metrics, split = configuration.metrics, confirmed_split([configuration])
    names = class_names(dict.fromkeys(metrics), split)
    rows = [(name, [metrics.get(f"{split}/{name}/{metric}") for metric in METRIC_LABELS]) for name in names]
    if metrics:
        rows.append((MEAN, [metrics.get(f"{split}/{metric}") for metric in METRIC_LABELS]))
    mad = [metrics.get(f"{split}/{name}/{MAD}") for name in names] + [metrics.get(f"{split}/{MAD}")]
    measured = any(spread is not None and spread.mean is not None for spread in mad)
    return ConfirmTable(configuration, split, rows, _notes(configuration, split), mad if measured else [])


def confirmed_split(confirmed: Sequence[ConfirmedConfiguration]) -> str:
    """`test`, or `val` where all that they were measured on is that."""
    names = [name for each in confirmed for name in each.metrics]
    return "val" if names and not any(name.startswith("test/") for name in names) else "test"


def print_confirmed(
    console: Console,
    confirmed: Sequence[ConfirmedConfiguration],
    *,
    objective: str,
    best_trial_id: str,
    mark: str,
) -> None:
    """All configurations in one table by their means, then the best one per class; `mark` follows every "on test", or "on val"."""
    split = confirmed_split(confirmed)
    interval = ", 95 % interval" if split == "test" else ""
    labels = [METRIC_LABELS[metric] for metric in ("image_auroc", "pixel_auroc")]
    rows = []
    for each in confirmed:
        spreads = [
            each.metrics.get(name) for name in (objective, f"{split}/image_auroc", f"{split}/pixel_auroc")
        ]
        seeds = textwrap.fill(", ".join(map(str, each.seeds)) or "all failed", _SEEDS_WIDTH)
        rows.append(
            FigureRow(each.trial_id, [*map(_cell, spreads), seeds], bold=each.trial_id == best_trial_id)
        )
    console.print(
        FigureTable(
            f"Confirmed on {split}{mark}: mean ± std over seeds{interval}",
            "trial",
            [objective, *(f"{label} on {split}" for label in labels), "seeds"],
            rows,
        )
    )
    for each in confirmed:
        if each.trial_id == best_trial_id and each.metrics:
            console.print(_per_class(confirm_table(each), mark))
    for note in dict.fromkeys(note for each in confirmed for note in _notes(each, split, mark)):
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def _per_class(one: ConfirmTable, mark: str) -> FigureTable:
    positions = [list(METRIC_LABELS).index(metric) for metric in TERMINAL_METRICS]
    return FigureTable(
        f"{one.configuration.trial_id} confirmed on {one.split}{mark}",
        "class",
        [METRIC_LABELS[metric] for metric in TERMINAL_METRICS],
        [FigureRow(name, [_cell(spreads[position]) for position in positions]) for name, spreads in one.rows],
        mean_is_last=True,
    )


def _cell(spread: Spread | None) -> str:
    return "\n".join(spread_lines(spread))


def spread_lines(spread: Spread | None) -> list[str]:
    """`0.9712 ± 0.0034`, and below it the interval `0.9510 to 0.9880`, as far as they are there."""
    if spread is None or spread.mean is None:
        return [wording.number(None)]
    std = "" if spread.std is None else f" ± {spread.std:.4f}"  # to the places of the mean
    lines = [f"{wording.number(spread.mean)}{std}"]
    if spread.low is not None and spread.high is not None:
        lines.append(f"{wording.number(spread.low)} to {wording.number(spread.high)}")
    return lines


def _notes(configuration: ConfirmedConfiguration, split: str, mark: str = "") -> list[str]:
    says = {
        "bootstrap over images and seeds": "bootstrap over test images and seeds",
        "bootstrap over images": "bootstrap over test images; one seed says nothing of others",
        "t over seeds": "Student's t over the seeds; they say nothing of other images",
    }
    kinds: dict[str | None, set[str]] = {}
    for name, spread in configuration.metrics.items():
        kinds.setdefault(spread.interval, set()).add(name.rpartition("/")[2].partition("_")[0])
    notes = [
        f"Intervals of {_listed(kinds[interval])}: {text}."
        for interval, text in says.items()
        if interval in kinds
    ]
    if (mad := configuration.metrics.get(f"{split}/{MAD}")) is not None and mad.mean is not None:
        shown = ", ".join(spread_lines(mad))
        notes.insert(0, f"{configuration.trial_id}: mean {ALL_LABELS[MAD]} on {split}{mark} {shown}.")
    notes += _mean_notes(configuration, split)
    notes += [f"{run_id} failed: {error}" for run_id, error in configuration.failed.items()]
    return notes


def _listed(kinds: set[str]) -> str:
    """`image and pixel metrics and mAD`."""
    metrics = " and ".join(sorted(kinds - {MAD}))
    return " and ".join(([f"{metrics} metrics"] if metrics else []) + [ALL_LABELS[MAD]] * (MAD in kinds))


def _mean_notes(configuration: ConfirmedConfiguration, split: str) -> list[str]:
    """Over how many classes the means were taken where one is undefined, with the seed where that differs."""
    metrics = configuration.metrics
    by_seed = {
        seed: mean_note({name: spread.values[index] for name, spread in metrics.items()}, split)
        for index, seed in enumerate(configuration.seeds)
    }
    if len(set(by_seed.values())) == 1:
        return [note for note in set(by_seed.values()) if note]
    return [f"seed {seed}: {note}" for seed, note in by_seed.items() if note]
