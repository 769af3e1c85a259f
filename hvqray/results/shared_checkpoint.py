"""A checkpoint's files as others may have them: folders and files by their names, not their places, and no hardware."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hvqray.config.run_config import WEIGHTS
from hvqray.config.yaml_loader import dump_yaml, load_yaml

_MODEL_KEY = "hvqray"
"""Of the model file's header: JSON of `config`, `context` and `record`, the last being what metrics.json held."""


def copy_to_share(checkpoint: Path, target: Path) -> list[Path]:
    """Copies in `target`, a folder, of what `checkpoint` has of config.yaml, metrics.json and model.safetensors; they load as those do.

    Holds none of a model's weights in memory, which can be gigabytes.
    """
    copies = []
    for name, copy in _COPY.items():
        if (checkpoint / name).exists():
            copy(checkpoint / name, target / name)
            copies.append(target / name)
    return copies


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration in which the data's folder and a weights file are named, not located."""
    data = dict(config.get("data") or {})
    backbone = dict(data.get("backbone") or {})
    if data.get("root"):
        data["root"] = Path(data["root"]).name
    if backbone.get("weights"):
        backbone["weights"] = Path(backbone["weights"]).name
    named = {**config, "data": {**data, "backbone": backbone}}
    params = config.get("params") or {}
    if WEIGHTS in params:
        named["params"] = {**params, WEIGHTS: Path(params[WEIGHTS]).name}
    return named


def _shared_record(record: dict[str, Any]) -> dict[str, Any]:
    """What metrics.json may say: the messages of failed runs, which can name files, stay here too."""
    shared = dict(record)
    if "environment" in record:
        shared["environment"] = {
            name: value for name, value in record["environment"].items() if name != "hardware"
        }
    if "confirm" in record:
        shared["confirm"] = [
            {**each, "failed": dict.fromkeys(each["failed"], "failed")} for each in record["confirm"]
        ]
    return shared


def _copy_config(source: Path, target: Path) -> None:
    target.write_text(dump_yaml(without_paths(load_yaml(source))), encoding="utf-8")


def _copy_metrics(source: Path, target: Path) -> None:
    record = json.loads(source.read_text(encoding="utf-8"))
    target.write_text(json.dumps(_shared_record(record), indent=2) + "\n", encoding="utf-8")


def _copy_model(source: Path, target: Path) -> None:
    """A safetensors file is the length of its header (8 bytes, little-endian), the header, which is JSON, and the tensors' bytes, which
    are found from the header's end on: with another header they stay as they are."""
    with source.open("rb") as old, target.open("wb") as new:
        header = json.loads(old.read(int.from_bytes(old.read(8), "little")))
        content = json.loads(header["__metadata__"][_MODEL_KEY])
        content |= {
            "config": without_paths(content["config"]),
            "record": _shared_record(content["record"]),
        }
        header["__metadata__"][_MODEL_KEY] = json.dumps(content)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # the tensors are aligned to 8 bytes
        new.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(old, new, 1 << 20)


_COPY: dict[str, Callable[[Path, Path], None]] = {
    "config.yaml": _copy_config,
    "metrics.json": _copy_metrics,
    "model.safetensors": _copy_model,
}
