"""Results of baselines beside the feature cache: whoever measures on the same data again pays nothing.

A file with the results of all settings, and a folder of the same name with the histograms of the pixels of `test`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from hvqray.atomic import write_atomically
from hvqray.baselines.measure import BaselineName, BaselineResult, measure_baseline
from hvqray.data.cache import cache_dir_or_default
from hvqray.data.dataset import PreparedData
from hvqray.data.digests import digest_texts
from hvqray.data.progress import Progress, silent
from hvqray.metrics.histogram_file import is_whole

BASELINES_VERSION = "5"
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
    folder = cache_dir_or_default(cache_dir) / FOLDER
    key = _key(name, data)
    path, pixels_folder = folder / f"{key}.json", folder / key
    try:
        return _read(path, pixels_folder)
    except (OSError, ValueError, TypeError, KeyError):
        pass
    pixels_folder.mkdir(parents=True, exist_ok=True)
    results = measure_baseline(name, data, pixels_folder=pixels_folder, device=device, progress=progress)
    record = [
        asdict(result) | {"test_pixels": result.test_pixels and result.test_pixels.name} for result in results
    ]
    write_atomically(path, json.dumps(record, allow_nan=False))
    return results


def _read(path: Path, pixels_folder: Path) -> list[BaselineResult]:
    results = []
    for each in json.loads(path.read_text(encoding="utf-8")):
        pixels = pixels_folder / each["test_pixels"]
        if not is_whole(pixels):
            raise ValueError(f"{pixels} is not whole")
        results.append(BaselineResult(**{**each, "test_pixels": pixels}))
    return results


def _key(name: BaselineName, data: PreparedData) -> str:
    parts = [BASELINES_VERSION, name, data.fingerprint, str(data.context), str(data.selected_on_test)]
    if (
        data.context.grid_of_patches
    ):  # not in its text, which is as it was before patches were drawn otherwise
        parts.append("a grid of patches")
    for split_name, split in data.splits.items():
        parts += [split_name, str(split.rows.tolist()), str(split.has_mask.tolist())]
        parts += [f"{sample.class_name} {sample.is_anomalous}" for sample in split.samples]
    return digest_texts(parts)
