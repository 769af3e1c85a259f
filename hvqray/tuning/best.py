"""The best model: chosen on `val`, and laid out in `best/` for users."""

from __future__ import annotations

import filecmp
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from hvqray.errors import InputError
from hvqray.results.confirmation import (
    NO_QUANTIZER,
    OTHER_SWEEP,
    ConfirmedConfiguration,
    confirm_record,
    no_quantizer_id,
)
from hvqray.results.events import Goal
from hvqray.results.history import TrialRecord
from hvqray.results.ranking import is_better, ranked
from hvqray.results.sweep_folder import read_best
from hvqray.training.anomaly_images import EXAMPLES
from hvqray.training.checkpoint import CONFIG_FILE, METRICS_FILE, MODEL_FILE, write_record
from hvqray.training.measure import PIXELS_FILE, SCORES_FILE
from hvqray.tuning.measured import measured_folder

FOLDER = "best"
_OF_THE_SWEEP = (CONFIG_FILE, METRICS_FILE, MODEL_FILE, SCORES_FILE, PIXELS_FILE, EXAMPLES)


def best_trials(trials: Sequence[TrialRecord], goals: Mapping[str, Goal], number: int) -> list[TrialRecord]:
    """The best COMPLETE trials by the first metric, the best one first; at most `number`."""
    return ranked((trial for trial in trials if trial.state == "COMPLETE"), goals)[:number]


def best_confirmed(
    confirmed: Sequence[ConfirmedConfiguration], goals: Mapping[str, Goal]
) -> tuple[str, str] | None:
    """Trial and run of the best model: the configuration of the best mean of the first metric over the seeds, by its best seed.

    None where no configuration was trained on all seeds.
    """
    name, goal = next(iter(goals.items()))
    best: tuple[float, str, str] | None = None
    for each in confirmed:
        spread = each.metrics.get(name)
        if each.failed or spread is None or spread.mean is None:
            continue
        if best is None or is_better(spread.mean, best[0], goal):
            choose = max if goal == "maximize" else min
            values = [value for value in spread.values if value is not None]
            run_id = each.run_ids[spread.values.index(choose(values))]
            best = (spread.mean, each.trial_id, run_id)
    return best[1:] if best else None


def install_best(
    folder: Path,
    trial_id: str,
    run_id: str,
    confirmed: Sequence[ConfirmedConfiguration] = (),
    *,
    baselines: Sequence[str] = (),
) -> str | None:
    """Fill `folder/best` with the measured model of a run of `trial_id` (the trial itself, or its retraining).

    A `best` that holds it already is left alone. Where it is laid out anew, what others put beside the same model stays: files, and
    baselines. With another model in them, they stay in a folder of their own. `baselines` are those that the sweep measures itself.

    No call exchanges two folders, so between two renames there is no `best`. A process killed there leaves none: a resumed
    sweep comes by here again.

    Returns:
        What there is to say of the earlier `best`, or None.
    """
    best, source = folder / FOLDER, measured_folder(folder, run_id)
    _recover(folder)
    record = json.loads((source / METRICS_FILE).read_text(encoding="utf-8"))
    record |= {"trial_id": trial_id, "run_id": run_id}
    if confirmed:
        record["confirm"] = json.loads(json.dumps(confirm_record(list(confirmed))))
    earlier = _read_record(best)
    same_model = _without(earlier, "baselines", "confirm") == _without(record, "confirm")
    same_seeds = _candidates(earlier) == _candidates(record)
    if same_model and same_seeds:
        record |= _kept(earlier, record)
        if _holds(best, source):
            if record != earlier:  # an earlier version did not work out how configurations differ
                write_record(best, record)
            return None
    added = _not_of_the_sweep(best)
    others = [each for each in earlier.get("baselines", []) if each["name"] not in baselines]
    told = None
    if same_model and not same_seeds and others:
        # The intervals of what the model has more are those of its means over other seeds.
        record["baselines"] = [_without(each, "more") for each in others if each["name"] != NO_QUANTIZER]
        names = ", ".join(each["name"] for each in others)
        told = f"confirmed over other seeds than before: hvqray.baseline {folder} works out anew how it compares with {names}"
        if any(each["name"].startswith(OTHER_SWEEP) for each in others):
            told += " (with another sweep, by --against its folder)"
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{FOLDER}.", ignore_cleanup_errors=True) as name:
        new, old = Path(name) / "new", Path(name) / "old"
        shutil.copytree(source, new)
        write_record(new, record)
        if same_model:
            for path in added:
                copy = shutil.copytree if path.is_dir() and not path.is_symlink() else shutil.copy2
                copy(path, new / path.name)
        elif added or others:
            old = _free_name(folder, str(earlier.get("run_id", "earlier")))
            what = [path.name for path in added] + [f"baseline {each['name']}" for each in others]
            told = f"{trial_id} takes the place of an earlier best model, which stays in {old}, with {', '.join(what)}"
        if best.exists():
            best.rename(old)
        try:
            new.rename(best)
        except OSError:
            if old.exists():
                old.rename(best)
            raise
    return told


def _recover(folder: Path) -> None:
    """Clear up after a process that was killed: a `best` that it had put away is the only one, and may hold a user's files."""
    for stale in folder.glob(f".{FOLDER}.*"):
        if (stale / "old").exists() and not (folder / FOLDER).exists():
            (stale / "old").rename(folder / FOLDER)
        shutil.rmtree(stale, ignore_errors=True)


def _read_record(best: Path) -> dict[str, Any]:
    """What metrics.json holds; nothing where it is gone or damaged."""
    try:
        read_best(best.parent)
        record: dict[str, Any] = json.loads((best / METRICS_FILE).read_text(encoding="utf-8"))
    except (InputError, OSError):
        return {}
    return record


def _without(record: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


def _kept(earlier: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """What others have put into the record of the same model: baselines, and the one among them that was confirmed."""
    kept: dict[str, Any] = {"baselines": earlier["baselines"]} if "baselines" in earlier else {}
    known = [each["trial_id"] for each in record.get("confirm", [])]
    added = [each for each in earlier.get("confirm", []) if each["trial_id"] not in known]
    return kept | ({"confirm": [*record.get("confirm", []), *added]} if known or added else {})


def _candidates(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was confirmed, without the run that is a baseline, and without differences, which earlier versions did not work out."""
    baseline = no_quantizer_id(record.get("trial_id", ""))
    return [_without(each, "more") for each in record.get("confirm", []) if each["trial_id"] != baseline]


def _holds(best: Path, source: Path) -> bool:
    """Whether all files of a measured run are in `best` as they are there, but for metrics.json."""
    paths = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    return all(
        (best / path).is_file() and filecmp.cmp(source / path, best / path, shallow=False)
        for path in paths
        if path != Path(METRICS_FILE)
    )


def _not_of_the_sweep(best: Path) -> list[Path]:
    return sorted(path for path in best.glob("*") if path.name not in _OF_THE_SWEEP)


def _free_name(folder: Path, run_id: str) -> Path:
    """`best-RUN`, or `best-RUN-2` where there is one."""
    paths = (folder / f"{FOLDER}-{run_id}{'' if number == 1 else f'-{number}'}" for number in count(1))
    return next(path for path in paths if not path.exists())
