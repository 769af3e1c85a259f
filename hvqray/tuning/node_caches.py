"""The feature caches of a cluster's other nodes, filled before the first trial while nothing else needs their cores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hvqray.config.data_sections import DataConfig
from hvqray.errors import InputError
from hvqray.tuning.resources import TrialResources, slots_on

logger = logging.getLogger(__name__)


def other_nodes(resources: TrialResources) -> list[dict[str, Any]]:
    """The living nodes where trials can run, but that of this process."""
    here = ray.get_runtime_context().get_node_id()
    return [
        node
        for node in ray.nodes()
        if node["Alive"]
        and node["NodeID"] != here
        and slots_on(node["Resources"], resources.cpus_per_worker, resources.gpus_per_worker)
    ]


def on_node(address: str, fault: InputError) -> InputError:
    """The fault, which says at which node it is: all may be well where the driver runs."""
    return InputError(
        f"{fault.message} (so it is on the node {address})", source=fault.source, field=fault.field
    )


class NodeCaches:
    """The builds of `configs` on each node where trials can run but the driver's, all nodes at once: with all cores of the node and,
    where trials use GPUs, with a GPU.

    Where nodes share a cache folder, one of them builds and the others wait for it (`data.cache`).
    """

    def __init__(
        self,
        configs: Sequence[DataConfig],
        *,
        cache_dir: Path | None,
        cache_limit_bytes: int | None,
        resources: TrialResources,
    ) -> None:
        self._builds: list[tuple[str, ray.ObjectRef[None]]] = []
        self.on_gpu = False
        """Whether any of the nodes computes on a GPU."""
        for node in other_nodes(resources):
            cores, gpu = max(1, int(node["Resources"]["CPU"])), resources.gpus_per_worker > 0
            self.on_gpu |= gpu
            # No CPUs are asked for: the build must not wait for those that another job holds for hours. A GPU it does wait for, as
            # the trials will.
            build: Any = ray.remote(num_cpus=0, num_gpus=int(gpu), max_calls=1)(_build)
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            begun = build.options(scheduling_strategy=where).remote(
                configs, cache_dir, cache_limit_bytes, cores, gpu
            )
            self._builds.append((node["NodeManagerAddress"], begun))

    @property
    def nodes(self) -> int:
        """How many nodes' builds were not waited for yet."""
        return len(self._builds)

    def wait(self) -> None:
        """Return when all are built. A node whose build is lost is warned of: trials there build for themselves.

        Raises:
            InputError: the data are at fault on a node, or not there.
        """
        builds, self._builds = self._builds, []
        for address, build in builds:
            try:
                ray.get(build)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, InputError):
                    raise on_node(address, error.cause) from None
                raise
            except ray.exceptions.RayError as error:
                reason = str(error).strip().partition("\n")[0]
                logger.warning("a node's cache was not built beforehand (%s)", reason or type(error).__name__)


def _build(
    configs: Sequence[DataConfig],
    cache_dir: Path | None,
    cache_limit_bytes: int | None,
    cores: int,
    gpu: bool,
) -> None:
    from hvqray.data.cores import torch_threads
    from hvqray.data.prepare import prepare_data
    from hvqray.tuning.trial import quieten_worker

    quieten_worker()
    opened = []  # held until all are there: a limit clears what no process has open
    with torch_threads(cores):
        for config in configs:
            data = prepare_data(
                config,
                cache_dir=cache_dir,
                cache_limit_bytes=cache_limit_bytes,
                device="cuda" if gpu else "cpu",
            )
            opened.append(data)
