"""The two kinds of cache entries: images with masks, and the backbone's features of them."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from hvqray.config.data_sections import BitDepth, DataConfig
from hvqray.data.arrow_store import Column, TensorWriter
from hvqray.data.backbone_weights import find_weights
from hvqray.data.cache import TENSORS, open_entry
from hvqray.data.dataset import Sample
from hvqray.data.digests import digest_texts, file_digests
from hvqray.data.images import PREPROCESSING_VERSION, LoadedSample, Told, load_sample
from hvqray.data.progress import Progress
from hvqray.errors import InputError

FEATURES_VERSION = "2"
"""Part of the key of features: raise it whenever the same images would give other features."""
_BATCH_SIZE = 16
_BATCHNORM = "batchnorm.safetensors"
_TOLD = "told.json"


def images_key(config: DataConfig, samples: Sequence[Sample], cache_dir: Path, progress: Progress) -> str:
    """Digest of the samples' contents in their order, and of all that turns them into arrays."""
    paths = [path for sample in samples for path in (sample.path, sample.mask_path) if path is not None]
    memo = cache_dir / ".digests" / f"{digest_texts([os.path.commonpath(paths)])}.json"
    digests = file_digests(paths, memo, progress=progress)
    parts = [PREPROCESSING_VERSION, str(config.image_size)]
    if config.bit_depth is not None:
        parts.append(f"{config.bit_depth} bits")
    for sample in samples:
        mask = digests[sample.mask_path] if sample.mask_path else "-"
        mask += " nonzero" if sample.mask_is_nonzero else ""
        parts.append(f"{digests[sample.path]} {mask} {sample.synthetic_seed}")
    return digest_texts(parts)


def open_images(
    config: DataConfig, samples: Sequence[Sample], cache_dir: Path, key: str, progress: Progress
) -> tuple[np.ndarray, np.ndarray, list[Told]]:
    """(N, 3, S, S) uint8 images, (N, S, S) uint8 masks, and what the files of each sample told."""
    image_size = config.image_size
    description = f"{len(samples)} images at {image_size} px"

    def build(folder: Path) -> None:
        columns = {
            "image": Column(np.uint8, (3, image_size, image_size)),
            "mask": Column(np.uint8, (image_size, image_size)),
        }
        writer = TensorWriter(folder / TENSORS, columns)
        told = {}
        for done, loaded in enumerate(_load_ahead(samples, image_size, config.bit_depth), start=1):
            writer.append({"image": loaded.image[None], "mask": loaded.mask[None]})
            if loaded.told != Told():
                told[done - 1] = asdict(loaded.told)
            progress("decoding images", done, len(samples))
        writer.close()
        if told:
            (folder / _TOLD).write_text(json.dumps(told))

    tensors, entry = open_entry(cache_dir, f"images-{key}", build, description=description, progress=progress)
    file = entry / _TOLD
    of_row = json.loads(file.read_text()) if file.exists() else {}
    told = [Told(**of_row.get(str(row), {})) for row in range(len(samples))]
    return tensors["image"], tensors["mask"], told


def _load_ahead(
    samples: Sequence[Sample], image_size: int, bit_depth: BitDepth | None
) -> Iterator[LoadedSample]:
    """Decodes in as many threads as torch computes with, in order, at most a few images ahead."""
    pending: deque[Future[LoadedSample]] = deque()
    num_threads = torch.get_num_threads()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for sample in samples:
                pending.append(pool.submit(load_sample, sample, image_size, bit_depth))
                if len(pending) > 2 * num_threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def features_key(
    config: DataConfig,
    images: str,
    train_rows: np.ndarray,
    cache_dir: Path,
    batchnorm: dict[str, np.ndarray] | None = None,
) -> str:
    """Digest of the images' key and of all that turns them into features; `batchnorm` as in `open_features`."""
    backbone = config.backbone
    weights = find_weights(backbone)
    digest = (
        "random"
        if weights is None
        else file_digests([weights], cache_dir / ".digests" / "weights.json")[weights]
    )
    parts = [FEATURES_VERSION, images, backbone.name, digest, str(sorted(set(backbone.strides)))]
    parts += [str(backbone.blocks), backbone.padding]
    if backbone.grid_stride != 16 and not backbone.is_named_vit():  # as it was before there was a choice
        parts.append(f"grid of stride {backbone.grid_stride}")
    if config.adapt_batchnorm and batchnorm is not None:
        parts += [text for name in sorted(batchnorm) for text in (name, batchnorm[name].tobytes().hex())]
    elif config.adapt_batchnorm:
        parts.append(f"batch statistics of {train_rows.tolist()}")
    return digest_texts(parts)


def open_features(
    config: DataConfig,
    images_N3SS: np.ndarray,
    train_rows: np.ndarray,
    cache_dir: Path,
    key: str,
    device: str,
    progress: Progress,
    given_batchnorm: dict[str, np.ndarray] | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray] | None]:
    """(N, C, h, w) float16 features, and with `adapt_batchnorm` the batch norms' statistics that gave them.

    These are estimated on the training images, or those in `given_batchnorm` are taken.
    """
    name = config.backbone.name
    description = f"features of {len(images_N3SS)} images at {config.image_size} px by {name}"

    def build(folder: Path) -> None:
        # timm and its models take seconds to import, and are needed nowhere else.
        from hvqray.data.backbones import estimate_batchnorm, load_backbone

        batchnorm = None
        if config.adapt_batchnorm:
            batchnorm = given_batchnorm
            if batchnorm is None:
                batches = _shuffled_batches(images_N3SS, train_rows, progress)
                batchnorm = estimate_batchnorm(config.backbone, config.image_size, batches, device=device)
            save_file(batchnorm, folder / _BATCHNORM)
        backbone = load_backbone(config.backbone, config.image_size, batchnorm=batchnorm).to(device)
        writer = None
        for start in range(0, len(images_N3SS), _BATCH_SIZE):
            batch = torch.from_numpy(np.array(images_N3SS[start : start + _BATCH_SIZE]))
            features = backbone(batch.to(device)).half().cpu().numpy()
            if not np.isfinite(features).all():
                raise InputError(
                    f"features of {name!r} exceed the range of float16; choose another backbone, or other"
                    " data.backbone.strides or data.backbone.blocks",
                    field="data.backbone.name",
                )
            writer = writer or TensorWriter(
                folder / TENSORS, {"features": Column(np.float16, features.shape[1:])}
            )
            writer.append({"features": features})
            progress(
                f"computing features ({name})", min(start + _BATCH_SIZE, len(images_N3SS)), len(images_N3SS)
            )
        assert writer is not None
        writer.close()

    tensors, entry = open_entry(
        cache_dir,
        f"features-{key}",
        build,
        description=description,
        progress=progress,
        files=[_BATCHNORM] if config.adapt_batchnorm else [],
    )
    batchnorm = load_file(entry / _BATCHNORM) if config.adapt_batchnorm else None
    return tensors["features"], batchnorm


def _shuffled_batches(
    images_N3SS: np.ndarray, rows: np.ndarray, progress: Progress
) -> Iterator[torch.Tensor]:
    """Training images in an order that mixes the classes, which lie one after the other."""
    order = np.random.default_rng(0).permutation(rows)
    for start in range(0, len(order), _BATCH_SIZE):
        chosen = order[start : start + _BATCH_SIZE]
        # A last batch of one image has no variance on the smallest grids.
        if len(chosen) > 1 or len(order) == 1:
            yield torch.from_numpy(images_N3SS[chosen])
        progress("re-estimating batch statistics", start + len(chosen), len(order))
