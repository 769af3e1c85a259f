"""What a trial takes of the cluster, and how many trials fit at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hvqray.config.sections import ResourcesConfig
from hvqray.errors import InputError, counted

DRIVER_MEMORY_BYTES = 64 * 2**20
"""What the actor that minds a worker group reserves: some memory, so that every core is left to the workers."""


@dataclass(frozen=True)
class TrialResources:
    """Resources of one trial, and the number of trials that never starve each other."""

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    max_concurrent_trials: int
    memory_per_worker: int = 0
    """Bytes that each worker reserves of its node, where a node's memory holds fewer workers than its cores and GPUs; else 0."""
    warning: str | None = None
    """What may go wrong for want of memory, or lies idle for it."""

    @property
    def threads_per_worker(self) -> int:
        """Threads a worker computes with, so that workers together never outnumber the cores."""
        return max(1, int(self.cpus_per_worker))

    @property
    def of_worker(self) -> dict[str, float]:
        """What a worker reserves, as Ray names it: `{"CPU": 1.0, "GPU": 0.5}`."""
        amounts = {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker, "memory": self.memory_per_worker}
        return {name: amount for name, amount in amounts.items() if amount}

    def describe(self) -> str:
        """`2 trials at once, each 1 worker with 1 CPU`, and `and 2.0 GB of memory` where that is reserved."""
        each = f"{self.cpus_per_worker:g} CPU" + (
            f" and {self.gpus_per_worker:g} GPU" if self.gpus_per_worker else ""
        )
        plural = "s" if self.workers > 1 else ""
        trials = f"{self.max_concurrent_trials} trial{'s' if self.max_concurrent_trials > 1 else ''} at once"
        reserved = f" and {self.memory_per_worker / 1e9:.1f} GB of memory" if self.memory_per_worker else ""
        return f"{trials}, each {self.workers} worker{plural} with {each}{reserved}"


def plan_resources(
    config: ResourcesConfig, nodes: Sequence[Mapping[str, float]], *, worker_bytes: int = 0
) -> TrialResources:
    """Fit `config` to the nodes' totals (`[{"CPU": 8, "GPU": 2, "memory": 3e10}, ...]`, the last in bytes).

    A worker holds `worker_bytes` of memory. A node that does not tell its memory has enough; where there is too little for a single
    trial, one runs nevertheless, as the estimate may be too high.

    Raises:
        InputError: A GPU is demanded where there is none, or not even one trial fits.
    """
    total_gpus = sum(node.get("GPU", 0) for node in nodes)
    gpus = (1.0 if total_gpus >= 1 else 0.0) if config.gpus_per_worker == "auto" else config.gpus_per_worker
    if gpus and not total_gpus:
        raise InputError(
            f"{gpus:g} is demanded, but Ray has no GPU; set it to 0 or auto, or start Ray where GPUs are",
            field="resources.gpus_per_worker",
        )
    cpus = _auto_cpus(nodes, gpus) if config.cpus_per_worker == "auto" else config.cpus_per_worker
    slots = sum(slots_on(node, cpus, gpus) for node in nodes)
    fitting = slots // config.workers
    if not fitting:
        have = (
            ", ".join(f"{node.get('CPU', 0):g} CPU/{node.get('GPU', 0):g} GPU" for node in nodes) or "nothing"
        )
        raise InputError(
            f"{config.workers} workers with {cpus:g} CPU and {gpus:g} GPU each do not fit into the cluster ({have});"
            " lower workers, cpus_per_worker or gpus_per_worker",
            field="resources.workers",
        )
    wanted = config.max_concurrent_trials
    limit = fitting if wanted == "auto" else min(fitting, wanted)
    slot_bytes = worker_bytes and worker_bytes + (DRIVER_MEMORY_BYTES if config.workers > 1 else 0)
    in_memory = [slots_on(node, cpus, gpus, slot_bytes) for node in nodes]
    fitting_memory = sum(in_memory) // config.workers
    if limit <= fitting_memory or (wanted == "auto" and fitting_memory):
        # Ray places by what is reserved: else a node that is short might get more than its memory holds.
        is_short = any(held < slots_on(node, cpus, gpus) for held, node in zip(in_memory, nodes, strict=True))
        reserved = worker_bytes if is_short else 0
        limit = min(limit, fitting_memory)
        idle = _idle_cores(config, nodes, limit) if wanted == "auto" and not gpus else None
        return TrialResources(config.workers, cpus, gpus, limit, memory_per_worker=reserved, warning=idle)
    limit = 1 if wanted == "auto" else limit
    have = ", ".join(f"{node['memory'] / 1e9:.1f} GB" for node in nodes if "memory" in node)
    mend = (
        f"lower it to {fitting_memory}"
        if fitting_memory
        else "free some, or take a smaller model, a coarser grid, a smaller train.batch_size, model.dropout 0 (hvq), fewer data.classes, or map_distance mahalanobis"
    )
    warning = (
        f"resources.max_concurrent_trials: {limit} at once may not fit into memory: a trial may take"
        f" {config.workers * worker_bytes / 1e9:.1f} GB, nodes have {have}; {mend}"
    )
    return TrialResources(config.workers, cpus, gpus, limit, warning=warning)


def _idle_cores(config: ResourcesConfig, nodes: Sequence[Mapping[str, float]], limit: int) -> str | None:
    """What to say where memory holds so few trials of a core a worker that others would have room for another thread."""
    if config.cpus_per_worker != "auto" or len(nodes) > 1:
        return None
    cores = int(nodes[0].get("CPU", 0))
    share = cores // (limit * config.workers)
    if share < 2:
        return None
    # Not done unasked: with other threads a trial's last bits change, by which it could not be repeated elsewhere.
    return (
        f"resources.cpus_per_worker: memory holds {counted(limit, 'trial')} at once, so {cores - limit * config.workers} of {cores} cores"
        f" stay idle; {share} would give them to the trials"
    )


def slots_on(node: Mapping[str, float], cpus: float, gpus: float, memory: int = 0) -> int:
    """Workers that fit on one node, of `memory` bytes each; 0 where that is not asked."""
    fitting = int(node.get("CPU", 0) / cpus + 1e-9)
    if memory and "memory" in node:
        fitting = min(fitting, int(node["memory"] // memory))
    if not gpus:
        return fitting
    total = int(node.get("GPU", 0))
    # Ray gives a fraction from one GPU only: 0.4 fits twice into each, never five times into two.
    by_gpu = total * int(1 / gpus + 1e-9) if gpus < 1 else int(total / gpus)
    return min(fitting, by_gpu)


def trials_on(nodes: Sequence[Mapping[str, float]], resources: TrialResources) -> int:
    """Trials that fit onto the nodes at once, were nothing else there."""
    memory = resources.memory_per_worker
    memory += DRIVER_MEMORY_BYTES if memory and resources.workers > 1 else 0
    slots = sum(
        slots_on(node, resources.cpus_per_worker, resources.gpus_per_worker, memory) for node in nodes
    )
    return slots // resources.workers


def _auto_cpus(nodes: Sequence[Mapping[str, float]], gpus: float) -> float:
    """One core a worker without GPUs; with GPUs, an even share of the scarcest node's cores."""
    if not gpus:
        return 1.0
    shares = [
        node.get("CPU", 0) / slots for node in nodes if (slots := slots_on({**node, "CPU": 1e9}, 1.0, gpus))
    ]
    share = min(shares, default=1.0)
    return float(int(share)) if share >= 1 else max(share, 0.01)
