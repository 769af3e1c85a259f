"""A sweep's data before its first trial: read, cached on every node, and held against what is searched and what memory there is."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hvqray.config.data_sections import DataConfig
from hvqray.config.searched_data import data_configs
from hvqray.config.sweep_file import SweepFile, check_metric_classes
from hvqray.data.cache import cache_dir_or_default
from hvqray.data.cores import torch_threads
from hvqray.data.dataset import PreparedData
from hvqray.data.objectives import check_objective
from hvqray.data.prepare import open_dataset, prepare_data
from hvqray.data.progress import Progress, progress_bar
from hvqray.data.splits import make_splits
from hvqray.environment import usable_cores
from hvqray.errors import counted
from hvqray.models.context import ModelContext
from hvqray.training.run_memory import slot_bytes
from hvqray.tuning.node_caches import NodeCaches
from hvqray.tuning.resources import TrialResources, plan_resources
from hvqray.tuning.session_checks import check_fixed_model
from hvqray.tuning.trial_memory import gpu_warning, largest_map_bytes, largest_worker_bytes

logger = logging.getLogger(__name__)


def uses_gpu(sweep: SweepFile) -> bool:
    """Whether this process computes on a GPU for the sweep."""
    return torch.cuda.is_available() and sweep.resources.gpus_per_worker != 0


def prepare_for_sweep(
    sweep: SweepFile,
    nodes: Sequence[Mapping[str, float]],
    *,
    most_ahead: int,
    resources: TrialResources,
    cache_dir: Path | None,
    cache_limit_bytes: int | None,
    console: Console,
) -> tuple[PreparedData, TrialResources]:
    """Read the data and fill the cache, on every node of a cluster, before any trial needs the cores.

    Where fields of `data` are searched, the data given back are those of the base configuration. All combinations are held against
    their backbones first, whose weights are downloaded if need be, and features are cached for all unless there are more than
    `most_ahead`. `nodes` are the resources of each. The resources come back planned anew, now that the data tell what a trial holds in
    memory; what falls short is logged as a warning.

    Raises:
        InputError: data, backbones, objectives, or the fixed part of the model do not go together.
    """
    config, *searched = data_configs(sweep)
    with progress_bar(console) as progress:
        if searched:  # a folder that is not there is told before backbones are built and their weights come
            where = cache_dir_or_default(cache_dir)
            dataset = open_dataset(config, cache_dir=where, progress=progress, remarks=False)
            make_splits(dataset, config.validation)
        shapes = _feature_shapes(searched, progress)
    ahead = searched if len(searched) < most_ahead else []
    on_gpu = uses_gpu(sweep)
    if on_gpu and 0 < resources.gpus_per_worker < 1:
        slot_bytes(torch.cuda.get_device_properties(0).total_memory, resources.gpus_per_worker)
    others = None
    if len(nodes) > 1:
        others = NodeCaches(
            [config, *ahead], cache_dir=cache_dir, cache_limit_bytes=cache_limit_bytes, resources=resources
        )
    if others and others.on_gpu and not on_gpu and cache_dir:
        console.print("features are computed on other nodes, which have GPUs", markup=False, soft_wrap=True)
        others.wait()
    with progress_bar(console) as progress, torch_threads(usable_cores()):

        def prepare(config: DataConfig, *, remarks: bool) -> PreparedData:
            return prepare_data(
                config,
                cache_dir=cache_dir,
                cache_limit_bytes=cache_limit_bytes,
                device="cuda" if on_gpu else "cpu",
                progress=progress,
                remarks=remarks,
            )

        data = prepare(config, remarks=True)
        check_metric_classes(sweep, data.context.class_names)
        for metric in sweep.metric:
            check_objective(metric.name, data, field="metric.name")
        check_fixed_model(sweep, data.context)
        # Held until all are there: a limit clears what no process has open.
        _held = [prepare(each, remarks=False) for each in ahead]
    if others and others.nodes:
        console.print(
            f"waiting for the caches of {counted(others.nodes, 'other node')}", markup=False, soft_wrap=True
        )
        others.wait()
    if on_gpu:
        torch.cuda.empty_cache()  # the trials want the memory
    contexts = [data.context]
    for each, (channels, height, width) in zip(searched, shapes, strict=True):
        size: dict[str, Any] = {"grid_size": (height, width), "image_size": each.image_size}
        contexts.append(replace(data.context, feature_channels=channels, **size))
    return data, _heeding_memory(sweep, contexts, nodes, on_gpu=resources.gpus_per_worker > 0)


def _feature_shapes(configs: Sequence[DataConfig], progress: Progress) -> list[tuple[int, int, int]]:
    """(C, h, w) of the features of each, as its backbone gives them: what this refuses is told before a trial draws it."""
    if not configs:
        return []
    from hvqray.data.backbones import feature_shape  # timm takes seconds to import

    # Configurations that differ elsewhere ask for the same backbone once more.
    asked = [(each.image_size, each.backbone.model_dump_json()) for each in configs]
    different = dict(zip(asked, configs, strict=True))
    shapes = {}
    for done, (key, each) in enumerate(different.items()):
        progress("checking backbones", done, len(different))
        shapes[key] = feature_shape(each.backbone, each.image_size)
    progress("checking backbones", len(different), len(different))
    return [shapes[key] for key in asked]


def _heeding_memory(
    sweep: SweepFile, contexts: Sequence[ModelContext], nodes: Sequence[Mapping[str, float]], *, on_gpu: bool
) -> TrialResources:
    worker_bytes = largest_worker_bytes(sweep, contexts, on_gpu=on_gpu)
    resources = plan_resources(sweep.resources, nodes, worker_bytes=worker_bytes)
    warnings = [resources.warning]
    if uses_gpu(sweep) and resources.gpus_per_worker:
        total = torch.cuda.get_device_properties(0).total_memory
        maps = largest_map_bytes(sweep, contexts)
        warnings.append(gpu_warning(maps, total, resources.gpus_per_worker))
    for line in filter(None, warnings):
        logger.warning(line)
    return resources
