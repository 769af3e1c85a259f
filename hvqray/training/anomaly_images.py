"""Anomaly maps as pictures: a map laid over its image in colour, and example images of every class of a split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image

from hvqray.atomic import replacing_folder
from hvqray.data.dataset import Split
from hvqray.models.context import ModelContext
from hvqray.models.interface import AnomalyModel
from hvqray.training.evaluation import evaluating, predictions

EXAMPLES = "maps"
"""Folder of the example maps, in that of a run or of the best model."""
BATCH_SIZE = 32

# From black over purple and orange to pale yellow: rises evenly in lightness, and stays legible in grey and to the colour-blind.
_COLOUR_ANCHORS = np.array(
    [(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float32
)
_COLOURS_256x3 = np.stack(
    [np.interp(np.linspace(0, 4, 256), np.arange(5), channel) for channel in _COLOUR_ANCHORS.T], axis=1
)
_OPACITY = 0.6


def overlay(
    image_3HW: UInt8[np.ndarray, "3 H W"], map_HW: Float32[np.ndarray, "H W"], *, low: float, high: float
) -> Image.Image:
    """The map's colours over the image in grey: `low` and below darkest, `high` and above (NaN too) brightest."""
    span = high - low if high > low else np.inf
    share_HW = np.nan_to_num((map_HW - low) / span, nan=1.0).clip(0, 1)
    colours_HW3 = _COLOURS_256x3[np.rint(share_HW * 255).astype(np.uint8)]
    grey_HW1 = image_3HW.mean(axis=0)[..., None]
    return Image.fromarray(np.rint(_OPACITY * colours_HW3 + (1 - _OPACITY) * grey_HW1).astype(np.uint8))


def save_examples(
    model: AnomalyModel,
    split: Split,
    context: ModelContext,
    folder: Path,
    per_class: int = 2,
    scores_n: np.ndarray | None = None,
) -> list[Path]:
    """Replace `folder` by examples of every class: `CLASS_NNN_image.png`, `CLASS_NNN_mask.png`, `CLASS_NNN_map.png`.

    Chosen are the `per_class` defect images of the highest score, then the normal image of the median score; NNN counts them from
    000. The maps of one class share one colour scale, from the lowest to the highest value among them. A defect
    image whose mask is missing gets no `mask.png`. `scores_n` are the model's image scores of the whole split, where they are known already.

    Returns the files written, sorted.
    """
    with evaluating(model), replacing_folder(folder) as aside:
        for class_index, positions in split.by_class():
            if len(positions):
                chosen = _choose(model, split, positions, per_class, scores_n)
                _save_class(model, split, chosen, aside, context.class_names[class_index])
    return sorted(folder.iterdir())


def _choose(
    model: AnomalyModel, split: Split, positions: np.ndarray, per_class: int, known_n: np.ndarray | None
) -> np.ndarray:
    if known_n is not None:
        scores_n = known_n[positions]
    else:
        scores_n = np.empty(len(positions), dtype=np.float32)
        for rows, prediction in predictions(
            model, split, positions, batch_size=BATCH_SIZE, device=_device(model)
        ):
            scores_n[rows] = prediction.scores_B.cpu().numpy()
    descending = positions[np.argsort(-scores_n, kind="stable")]
    is_anomalous = split.is_anomalous[descending]
    defects, normal = descending[is_anomalous][:per_class], descending[~is_anomalous]
    return np.concatenate([defects, normal[len(normal) // 2 :][:1]])


def _save_class(model: AnomalyModel, split: Split, chosen: np.ndarray, folder: Path, class_name: str) -> None:
    parts = predictions(model, split, chosen, batch_size=BATCH_SIZE, device=_device(model))
    maps_nHW = np.concatenate([prediction.maps_BHW.cpu().numpy() for _, prediction in parts])
    finite = maps_nHW[np.isfinite(maps_nHW)]
    low, high = float(finite.min(initial=np.inf)), float(finite.max(initial=-np.inf))
    images_n3HW, masks_nHW, has_mask_n = split.images(chosen), split.masks(chosen), split.has_mask[chosen]
    for i in range(len(chosen)):
        stem = f"{class_name}_{i:03d}"
        Image.fromarray(images_n3HW[i].transpose(1, 2, 0)).save(folder / f"{stem}_image.png")
        if has_mask_n[i]:
            Image.fromarray(masks_nHW[i] * np.uint8(255)).save(folder / f"{stem}_mask.png")
        overlay(images_n3HW[i], maps_nHW[i], low=low, high=high).save(folder / f"{stem}_map.png")


def _device(model: AnomalyModel) -> torch.device:
    assert isinstance(model, torch.nn.Module)
    return next(model.parameters()).device
