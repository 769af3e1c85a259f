"""From a data configuration to memory-mapped arrays and splits: what every run starts from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hvqray.atomic import make_folder
from hvqray.config.data_sections import DataConfig
from hvqray.data.bit_depth import Largest, largest_of, remarks
from hvqray.data.cache import cache_dir_or_default, clear_cache
from hvqray.data.dataset import Dataset, PreparedData, Sample, Split
from hvqray.data.images import Told
from hvqray.data.layouts import AUTO, read_dataset
from hvqray.data.mask_checks import mask_remarks
from hvqray.data.progress import Progress, silent
from hvqray.data.published import differences
from hvqray.data.splits import make_splits
from hvqray.data.synthetic import synthetic_name, write_synthetic
from hvqray.data.tensors import features_key, images_key, open_features, open_images
from hvqray.data.unread import formats_remark
from hvqray.errors import InputError
from hvqray.models.context import ModelContext

logger = logging.getLogger(__name__)


def prepare_data(
    config: DataConfig,
    *,
    cache_dir: Path | None = None,
    cache_limit_bytes: int | None = None,
    device: str = "cpu",
    batchnorm: dict[str, np.ndarray] | None = None,
    progress: Progress | None = None,
    remarks: bool = True,
) -> PreparedData:
    """Reads the dataset, makes its splits and opens the cache, which is first built where need be.

    `cache_dir` defaults to `default_cache_dir()`. With `cache_limit_bytes` the least recently used entries that no
    process has open are cleared once this one's are there. `device` computes the features. `batchnorm` (with
    `adapt_batchnorm`) takes the place of statistics estimated here: those of a checkpoint's backbone. Without `progress`
    nothing is told, neither progress nor what `open_dataset` warns of; without `remarks` only progress. The arrays are memory-mapped: do not pickle the
    result, call this again in each process.

    Raises:
        InputError: the data, or the backbone's name or weights, are at fault, or the cache cannot be written to.
    """
    cache_dir = cache_dir_or_default(cache_dir)
    make_folder(cache_dir, option="--cache-dir")
    remarks = remarks and progress is not None
    dataset = open_dataset(config, cache_dir=cache_dir, progress=progress, remarks=remarks)
    if remarks:
        for line in formats_remark(dataset):
            logger.warning(line)
    progress = progress or silent
    splits = make_splits(dataset, config.validation)
    key = images_key(config, splits.samples, cache_dir, progress)
    train_rows = splits.rows["train"]
    # Weights that cannot be had are told of before any work is done.
    fingerprint = features_key(config, key, train_rows, cache_dir, batchnorm)
    images, masks, told = open_images(config, splits.samples, cache_dir, key, progress)
    if remarks:
        for line in _remarks_on_files(splits.samples, told, config):
            logger.warning(line)
    features, batchnorm = open_features(
        config, images, train_rows, cache_dir, fingerprint, device, progress, batchnorm
    )
    if cache_limit_bytes is not None:
        clear_cache(cache_dir, limit_bytes=cache_limit_bytes, keep=dataset.root)

    def split(name: str, rows: np.ndarray) -> Split:
        samples = tuple(splits.samples[row] for row in rows)
        return Split(
            name=name,
            samples=samples,
            class_index=np.array(
                [dataset.class_names.index(sample.class_name) for sample in samples], np.int64
            ),
            is_anomalous=np.array([sample.is_anomalous for sample in samples], bool),
            rows=rows,
            all_features=features,
            all_images=images,
            all_masks=masks,
            has_mask=np.array([sample.has_mask for sample in samples], bool),
        )

    return PreparedData(
        context=ModelContext(
            class_names=dataset.class_names,
            feature_channels=features.shape[1],
            grid_size=(features.shape[2], features.shape[3]),
            image_size=config.image_size,
            grid_of_patches=config.backbone.gives_patches(),
        ),
        splits={name: split(name, rows) for name, rows in splits.rows.items()},
        fingerprint=fingerprint,
        selected_on_test=splits.selected_on_test,
        batchnorm=batchnorm,
    )


def _remarks_on_files(samples: Sequence[Sample], told: Sequence[Told], config: DataConfig) -> list[str]:
    of_class: dict[str, Largest] = {}
    for sample, one in zip(samples, told, strict=True):
        of_class[sample.class_name] = largest_of([of_class.get(sample.class_name, {}), one.largest])
    lacks = [one.mask_lack for one in told]
    return remarks(of_class, config.bit_depth) + mask_remarks(samples, lacks, config.image_size)


class LastPrepared:
    """The data of a process's last run, for the next one of the same: to list and stat the files of a large dataset takes as long as a step."""

    def __init__(self) -> None:
        self._asked: tuple[str, Path | None, str] | None = None
        self._data: PreparedData | None = None

    def prepare(self, config: DataConfig, *, cache_dir: Path | None, device: str) -> PreparedData:
        """What `prepare_data` gives.

        Files that have changed since are read as they were, until the process ends; the cache's entry counts as last used when it
        was opened.
        """
        asked = config.model_dump_json(by_alias=True), cache_dir, device
        if self._data is None or asked != self._asked:
            # Let go before its successor is there, and also where there will be none.
            self._asked = None
            self._data = None
            self._data = prepare_data(config, cache_dir=cache_dir, device=device)
            self._asked = asked
        return self._data


def open_dataset(
    config: DataConfig, *, cache_dir: Path, progress: Progress | None = None, remarks: bool = True
) -> Dataset:
    """The dataset at `config.root`, or the synthetic set, which is drawn on first use.

    With `progress` and `remarks`, what the reader remarks and where a known dataset differs from what is published is logged as warnings.

    Raises:
        InputError: there is no such dataset, or it has no class of a given name.
    """
    if config.root is None:
        if config.layout != AUTO:
            raise InputError(
                f"{config.layout!r} without data.root, which is null for the synthetic set; give the dataset's folder",
                field="data.layout",
            )
        make_folder(cache_dir, option="--cache-dir")
        root = write_synthetic(cache_dir / synthetic_name(0), 0, progress=progress or silent)
        return read_dataset(root, "mvtec_ad", config.classes)
    dataset = read_dataset(config.root, config.layout, config.classes)
    if progress is not None and remarks:
        named = config.layout != AUTO
        for line in (
            *dataset.remarks,
            *differences(dataset, named=named, all_classes=config.classes is None),
        ):
            logger.warning(line)
    return dataset
