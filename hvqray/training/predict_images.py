"""A loaded model's scores and maps of image files; one that cannot be scored costs none of the others.

Legend: n images, B of a batch, S side of the square that the model sees.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hvqray.data.bit_depth import Largest, largest_of, remarks_on_new_images
from hvqray.data.image_files import PAGES, has_more_pages, told_of_files
from hvqray.data.images import read_image
from hvqray.data.progress import Progress
from hvqray.errors import InputError
from hvqray.models.batch import Batch
from hvqray.training.backbone_state import batchnorm_of
from hvqray.training.checkpoint import LoadedModel
from hvqray.training.evaluation import evaluating
from hvqray.training.optimisation import autocast

BATCH_SIZE = 16
_FEATURES_FAULT = (
    "its features exceed the range of float16; leave it out, or train a model on another data.backbone"
)
_PREDICTION_FAULT = "the model gives it no finite score and map; leave it out, or train the model anew"


def predict_images(
    loaded: LoadedModel,
    paths: list[Path],
    classes: list[str | None],
    maps_nSS: np.ndarray,
    *,
    device: torch.device,
    cache_dir: Path | None,
    progress: Progress,
) -> tuple[np.ndarray, list[str | None], dict[int, InputError], list[str]]:
    """Scores (n,) float32 of images, whose maps are written into `maps_nSS`, their classes, row to fault of those that could not be scored,
    and what a user must know of the files, a line each.

    A class that is not known is the one that the model's router recognises, where it has one. One image in thousands that
    cannot be read, or whose features, map or score are not finite, costs none of the others: its score and map count for nothing.
    """
    from hvqray.data.backbones import load_backbone  # timm takes seconds to import

    config, context = loaded.config, loaded.context
    batchnorm = batchnorm_of(loaded, cache_dir=cache_dir, device=str(device), progress=progress)
    backbone = load_backbone(config.data.backbone, context.image_size, batchnorm=batchnorm).to(device)
    # A model that needs no class ignores the index.
    index_n = np.array([context.class_names.index(name) if name else 0 for name in classes], dtype=np.int64)
    scores_n = np.empty(len(paths), dtype=np.float32)
    found = list(classes)
    faults: dict[int, InputError] = {}
    largest: Largest = {}
    several_pages: list[Path] = []
    with evaluating(loaded.model):
        for start in range(0, len(paths), BATCH_SIZE):
            progress("predicting", start, len(paths))
            images, rows = [], []
            for row in range(start, min(start + BATCH_SIZE, len(paths))):
                try:
                    image_SS3, of_file = read_image(
                        paths[row], context.image_size, bit_depth=config.data.bit_depth
                    )
                    if has_more_pages(paths[row]):
                        several_pages.append(paths[row])
                except InputError as error:
                    faults[row] = error
                    continue
                largest = largest_of([largest, of_file])
                images.append(image_SS3.transpose(2, 0, 1))
                rows.append(row)
            if not rows:
                continue
            images_B3SS = torch.from_numpy(np.stack(images)).to(device)
            # Rounded to float16 as in the cache, so that an image scores here as it does in an evaluation.
            features_BChw = backbone(images_B3SS).half().float()
            batch = Batch(features_BChw, torch.from_numpy(index_n[rows]).to(device), images_B3SS)
            with autocast(config.train, device):
                prediction = loaded.model.predict(batch)
            # NaN lies below every threshold, as if normal.
            for values, fault in (
                (features_BChw, _FEATURES_FAULT),
                (prediction.maps_BHW, _PREDICTION_FAULT),
                (prediction.scores_B[:, None], _PREDICTION_FAULT),
            ):
                for row, finite in zip(rows, values.flatten(1).isfinite().all(1).tolist(), strict=True):
                    if not finite:
                        faults.setdefault(row, InputError(fault, source=str(paths[row])))
            scores_n[rows] = prediction.scores_B.cpu().numpy()
            maps_nSS[rows] = prediction.maps_BHW.cpu().numpy()
            if prediction.routed_class_B is not None:
                routed = [context.class_names[index] for index in prediction.routed_class_B.tolist()]
                for row, name in zip(rows, routed, strict=True):
                    found[row] = classes[row] or name
    progress("predicting", len(paths), len(paths))
    remarks = remarks_on_new_images(largest, config.data.bit_depth)
    if several_pages:
        remarks.append(told_of_files(PAGES, several_pages))
    return scores_n, found, faults, remarks
