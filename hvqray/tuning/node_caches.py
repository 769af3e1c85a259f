"""The feature caches of a cluster's other nodes, filled before the first trial while nothing else needs their cores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hvqray.config.sections import DataConfig
from hvqray.errors import InputError


class NodeCaches:
    """One build on each node but the driver's, all at once: with all cores of the node and, with `use_gpu`, a GPU.

    Where nodes share a cache folder, one of them builds and the others wait for it (`data.cache`).
    """

    def __init__(
        self, config: DataConfig, *, cache_dir: Path | None, cache_limit_bytes: int | None, use_gpu: bool
    ) -> None:
        here = ray.get_runtime_context().get_node_id()
        self._builds: list[ray.ObjectRef[None]] = []
        self.on_gpu = False
        """Whether any of the nodes computes on a GPU."""
        for node in ray.nodes():
            resources = node["Resources"]
            cores = int(resources.get("CPU", 0))
            if not node["Alive"] or node["NodeID"] == here or not cores:
                continue
            gpu = use_gpu and resources.get("GPU", 0) >= 1
            self.on_gpu |= gpu
            # No CPUs are asked for: the build must not wait for those that another job holds for hours.
            build: Any = ray.remote(num_cpus=0, num_gpus=int(gpu), max_calls=1)(_build)
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            self._builds.append(
                build.options(scheduling_strategy=where).remote(
                    config, cache_dir, cache_limit_bytes, cores, gpu
                )
            )

    def wait(self) -> None:
        """Return when all are built. A node that is lost meanwhile is left out: its trials go elsewhere.

        Raises:
            InputError: the data are at fault on a node, or not there.
        """
        for build in self._builds:
            try:
                ray.get(build)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, InputError):
                    raise error.cause from None
                raise
            except ray.exceptions.RayError:
                continue


def _build(
    config: DataConfig, cache_dir: Path | None, cache_limit_bytes: int | None, cores: int, gpu: bool
) -> None:
    from hvqray.data.cores import torch_threads
    from hvqray.data.prepare import prepare_data
    from hvqray.tuning.trial import quieten_worker

    quieten_worker()
    with torch_threads(cores):
        prepare_data(
            config,
            cache_dir=cache_dir,
            cache_limit_bytes=cache_limit_bytes,
            device="cuda" if gpu else "cpu",
        )
