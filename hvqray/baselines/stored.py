"""Results of baselines beside the feature cache: whoever measures on the same data again pays nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from hvqray.atomic import write_atomically
from hvqray.baselines.measure import BaselineName, BaselineResult, measure_baseline
from hvqray.data.cache import default_cache_dir
from hvqray.data.dataset import PreparedData
from hvqray.data.digests import digest_texts
from hvqray.data.progress import Progress, silent

BASELINES_VERSION = "3"
"""Part of the key: raise it whenever the same features would give other results."""
FOLDER = ".baselines"


def baseline_results(
    name: BaselineName,
    data: PreparedData,
    *,
    cache_dir: Path | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> list[BaselineResult]:
    """What `measure_baseline` says, or said earlier of the same features, masks, splits and labels.

    A file that cannot be read counts as none.
    """
    path = (cache_dir or default_cache_dir()).expanduser().absolute() / FOLDER / f"{_key(name, data)}.json"
    try:
        return [BaselineResult(**result) for result in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        pass
    results = measure_baseline(name, data, device=device, progress=progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps([asdict(result) for result in results], allow_nan=False))
    return results


def _key(name: BaselineName, data: PreparedData) -> str:
    parts = [BASELINES_VERSION, name, data.fingerprint, str(data.context), str(data.selected_on_test)]
    for split_name, split in data.splits.items():
        parts += [split_name, str(split.rows.tolist()), str(split.has_mask.tolist())]
        parts += [f"{sample.class_name} {sample.is_anomalous}" for sample in split.samples]
    return digest_texts(parts)
