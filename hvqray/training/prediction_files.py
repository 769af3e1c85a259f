"""The files that `hvqray.predict` leaves: predictions.csv, and an anomaly map drawn over each image.

Legend: n images, S side of the square that the model sees, W x H size of an image file.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hvqray.atomic import replacing
from hvqray.config.data_sections import BitDepth
from hvqray.data.images import load_image
from hvqray.training.anomaly_images import overlay

CSV_FILE = "predictions.csv"
_COLUMNS = ["image", "class_name", "score", "threshold", "label", "map", "selected_on_test"]
_STEM_BYTES = 200
"""How much of an image's name its map bears; a name has at most 255 bytes on most file systems."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image file."""

    path: Path
    class_name: str | None
    score: float
    threshold: float | None
    """Score from which on an image of this class is called anomalous: where F1 was largest on `val`."""

    @property
    def label(self) -> str | None:
        if self.threshold is None:
            return None
        return "anomalous" if self.score >= self.threshold else "normal"


def draw(
    predictions: list[Prediction],
    maps_nSS: Sequence[np.ndarray],
    folder: Path,
    *,
    bit_depth: BitDepth | None = None,
) -> None:
    """Write `NNNN_STEM.png` into `folder` for each prediction: its map over its image, at the image's own size.

    The images of one class share one colour scale, from the lowest value of their maps to the highest, or to as far above
    the threshold as the lowest lies below it, whichever is more: so normal images alone are not drawn in glowing colours.
    """
    scales: dict[str | None, tuple[float, float]] = {}
    for class_name in {prediction.class_name for prediction in predictions}:
        rows = [i for i, prediction in enumerate(predictions) if prediction.class_name == class_name]
        low = min(float(maps_nSS[i].min()) for i in rows)
        high = max(float(maps_nSS[i].max()) for i in rows)
        threshold = predictions[rows[0]].threshold
        scales[class_name] = low, high if threshold is None else max(high, 2 * threshold - low)
    for i, prediction in enumerate(predictions):
        image_HW3 = load_image(prediction.path, bit_depth=bit_depth)
        size_WH = image_HW3.shape[1], image_HW3.shape[0]
        map_HW = np.asarray(Image.fromarray(maps_nSS[i]).resize(size_WH, Image.Resampling.BILINEAR))
        low, high = scales[prediction.class_name]
        with replacing(folder / _picture_name(i, prediction)) as aside:
            overlay(image_HW3.transpose(2, 0, 1), map_HW, low=low, high=high).save(aside, format="PNG")


def _picture_name(i: int, prediction: Prediction) -> str:
    """`NNNN_STEM.png`, where NNNN makes it unique."""
    return f"{i:04d}_{_map_stem(prediction.path)}.png"


def _map_stem(path: Path) -> str:
    """An image's name without its suffix, cut where it is very long."""
    return path.stem.encode()[:_STEM_BYTES].decode(errors="ignore")


def called_like_a_map(paths: Sequence[Path], folder: Path) -> Path | None:
    """The first of `paths` that lies in `folder` and that the map of one of them may overwrite, if any."""
    stems = {_map_stem(path) for path in paths}
    for path in paths:
        found = re.fullmatch(r"\d{4,}_(.*)\.png", path.name, re.DOTALL)
        if found and found[1] in stems and path.parent.resolve() == folder.resolve():
            return path
    return None


def csv_text(predictions: list[Prediction], selected_on_test: bool) -> str:
    """A row an image, in the order given; what is unknown is an empty cell."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for i, p in enumerate(predictions):
        picture = _picture_name(i, p)
        writer.writerow([p.path, p.class_name, p.score, p.threshold, p.label, picture, selected_on_test])
    return file.getvalue()


def earlier_maps(path: Path) -> list[Path]:
    """The maps that belong to earlier predictions in the same folder; none where the file is not one of this command."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames != _COLUMNS:
                return []
            names = [row["map"] or "" for row in rows]
    except (OSError, ValueError, csv.Error):
        return []
    return [path.with_name(name) for name in names if re.fullmatch(r"\d{4,}_[^/\0]*\.png", name)]
