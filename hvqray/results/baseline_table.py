"""What the best model won or lost by against each baseline, per class on `test`, or on `val` where there is no test image; for the
terminal and the HTML report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from hvqray.config.metric_names import MAD
from hvqray.results import wording
from hvqray.results.class_table import ALL_LABELS, METRIC_LABELS, class_names, class_table, mean_note
from hvqray.results.confirm_table import TERMINAL_METRICS
from hvqray.results.confirmation import read_intervals
from hvqray.results.terminal_table import FigureRow, FigureTable
from hvqray.training.epoch_report import MEAN

LABELS = {"padim": "PaDiM", "patchcore": "PatchCore", "no_quantizer": "no quantiser"}


@dataclass(frozen=True)
class BaselineRecord:
    """One entry of `baselines` in `best/metrics.json`."""

    name: str
    settings: dict[str, Any]
    """How it was set, as chosen on `val`; class name to that, where each class has a model of its own."""
    metrics: dict[str, float | None]
    """Flat names of `val` and `test`."""
    more: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Flat name of a metric on `test` to the 95 % interval of what the best model has more."""

    @property
    def title(self) -> str:
        """`PatchCore (each class as is best on val)`, or `no quantiser (seeds 0, 1, 2)`."""
        settings = "each class as is best on val" if self._by_class() else _setting_text(self.settings)
        return self.label + (f" ({settings})" if settings else "")

    def settings_lines(self) -> list[str]:
        """`PatchCore, bolt and nut: image score top 5%, neighbourhood 1, smoothing 0`, a line a setting, where classes have their own."""
        classes: dict[str, list[str]] = {}
        for class_name, settings in self._by_class().items():
            classes.setdefault(_setting_text(settings), []).append(class_name)
        return [f"{self.label}, {', '.join(names)}: {settings}" for settings, names in classes.items()]

    @property
    def label(self) -> str:
        """`PatchCore`."""
        return LABELS.get(self.name, self.name)

    def settings_table(self) -> tuple[list[str], list[tuple[list[str], list[str]]]]:
        """What was set, and a row a setting: its values in that order, and the classes that have it; no rows where classes do not have
        their own."""
        by_class = self._by_class()
        names = sorted({name for settings in by_class.values() for name in settings})
        rows: dict[tuple[str, ...], list[str]] = {}
        for class_name, settings in by_class.items():
            rows.setdefault(tuple(str(settings.get(name, "-")) for name in names), []).append(class_name)
        return [name.replace("_", " ") for name in names], [
            (list(values), classes) for values, classes in rows.items()
        ]

    def _by_class(self) -> dict[str, dict[str, Any]]:
        return {key: value for key, value in self.settings.items() if isinstance(value, dict)}


def _setting_text(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in sorted(settings.items()))


@dataclass(frozen=True)
class Gain:
    """What the best model has more than a baseline."""

    more: float
    interval: tuple[float, float] | None
    """Of 95 %; None where there is none."""

    @property
    def verdict(self) -> str:
        """`won` or `lost`, where the interval says so; else `open`."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "open"
        return "won" if self.interval[0] > 0 else "lost"

    @property
    def told(self) -> str:
        """`won by 0.0123`, `lost by 0.0045` and `equal` are for what an interval decides, and for what has none; else `+0.0123`."""
        if self.interval is not None and self.verdict == "open":
            return f"{self.more:+.4f}"
        if not self.more:
            return "equal"
        return f"won by {self.more:.4f}" if self.more > 0 else f"lost by {-self.more:.4f}"


@dataclass(frozen=True)
class BaselineTable:
    """The best model against one baseline; a row's cells are in the order of `ALL_LABELS`, mAD last."""

    baseline: BaselineRecord
    split: str
    """`test`, or `val` where nothing was measured on it."""
    rows: list[tuple[str, list[tuple[float | None, float | None]]]]
    """Class name and, a metric, the baseline's value and what the best model has more; the mean last."""
    note: str | None
    """Over how many classes a mean was taken, where that is not all of them."""
    verdict: str | None
    """What was won and lost in the means, with intervals where there are any."""
    gains: list[dict[str, Gain]]
    """Of each row the same of each of `ALL_LABELS` that both have, as a reader with room for it shows it."""


def read_baselines(content: Sequence[Mapping[str, Any]]) -> list[BaselineRecord]:
    """What `best/metrics.json` has under `baselines`."""
    return [
        BaselineRecord(
            each["name"],
            each["settings"],
            each["metrics"],
            read_intervals(each),
        )
        for each in content
    ]


def baseline_tables(
    best: Mapping[str, float | None], baselines: Sequence[BaselineRecord]
) -> list[BaselineTable]:
    """A table a baseline; `best` are the best model's flat metrics."""
    split = _split(best)
    names = class_names(best, split)
    return [
        BaselineTable(
            baseline,
            split,
            [
                (
                    name,
                    [_compare(best, baseline.metrics, f"{split}/{prefix}{metric}") for metric in ALL_LABELS],
                )
                for name, prefix in [*((name, f"{name}/") for name in names), (MEAN, "")]
            ],
            _mean_note(best, baseline, split),
            next(iter(headline(best, [baseline])), None),
            [_gains(best, baseline, f"{split}/{prefix}") for prefix in (*(f"{name}/" for name in names), "")],
        )
        for baseline in baselines
    ]


def print_baselines(
    console: Console,
    what: str,
    best: Mapping[str, float | None],
    baselines: Sequence[BaselineRecord],
    *,
    mark: str,
) -> None:
    """Each baseline's figures with what the best model, called `what`, won (+) or lost (-) by; `mark` follows "on test", or "on val"."""
    positions = [list(METRIC_LABELS).index(metric) for metric in TERMINAL_METRICS]
    for each in baseline_tables(best, baselines):
        rows = [
            FigureRow(name, [" ".join(cell_texts(*cells[position])) for position in positions])
            for name, cells in each.rows
        ]
        console.print(
            FigureTable(
                f"{each.baseline.title} on {each.split}{mark}, and what {what} has more",
                "class",
                [METRIC_LABELS[metric] for metric in TERMINAL_METRICS],
                rows,
                mean_is_last=True,
            )
        )
        for line in each.baseline.settings_lines():
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        if each.note:
            console.print(each.note, markup=False, highlight=False, soft_wrap=True)
    for line in headline(best, baselines, mark=mark):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def headline(
    best: Mapping[str, float | None], baselines: Sequence[BaselineRecord], *, mark: str = ""
) -> list[str]:
    """A line a baseline: `against PaDiM: image AUROC +0.0123 (95 %: -0.0100 to +0.0300, not decided), pixel AUROC lost by 0.0045 (test,
    mean over the classes)`, and after that `mark`."""
    split = _split(best)
    lines = []
    for baseline in baselines:
        gains = _gains(best, baseline, f"{split}/")
        parts = [
            f"{ALL_LABELS[metric]} {gains[metric].told}{_interval_text(gains[metric])}"
            for metric in (*TERMINAL_METRICS, MAD)
            if metric in gains
        ]
        if parts:
            lines.append(
                f"against {baseline.label}: {', '.join(parts)} ({split}, mean over the classes){mark}"
            )
    return lines


def _interval_text(gain: Gain) -> str:
    if gain.interval is None:
        return ""
    low, high = gain.interval
    return f" (95 %: {low:+.4f} to {high:+.4f}{', not decided' if gain.verdict == 'open' else ''})"


def cell_texts(value: float | None, more: float | None) -> tuple[str, str]:
    """`0.9490` and `+0.0123`."""
    return wording.number(value), wording.number(None) if more is None else f"{more:+.4f}"


def _split(best: Mapping[str, float | None]) -> str:
    return "test" if class_table(best, "test") else "val"


def _mean_note(best: Mapping[str, float | None], baseline: BaselineRecord, split: str) -> str | None:
    own, other = mean_note(best, split), mean_note(baseline.metrics, split)
    if own == other:
        return own
    return "; ".join(f"{who}: {note}" for who, note in ((baseline.label, other), ("best model", own)) if note)


def _gains(best: Mapping[str, float | None], baseline: BaselineRecord, prefix: str) -> dict[str, Gain]:
    return {
        metric: Gain(more, baseline.more.get(f"{prefix}{metric}"))
        for metric in ALL_LABELS
        if (more := _compare(best, baseline.metrics, f"{prefix}{metric}")[1]) is not None
    }


def _compare(
    best: Mapping[str, float | None], baseline: Mapping[str, float | None], name: str
) -> tuple[float | None, float | None]:
    own, other = best.get(name), baseline.get(name)
    return other, None if own is None or other is None else own - other
