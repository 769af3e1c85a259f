"""What a trial takes of the cluster, and how many trials fit at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hvqray.config.sections import ResourcesConfig
from hvqray.errors import InputError


@dataclass(frozen=True)
class TrialResources:
    """Resources of one trial, and the number of trials that never starve each other."""

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    max_concurrent_trials: int

    @property
    def threads_per_worker(self) -> int:
        """Threads a worker computes with, so that workers together never outnumber the cores."""
        return max(1, int(self.cpus_per_worker))

    def describe(self) -> str:
        """`2 trials at once, each 1 worker with 1 CPU`."""
        each = f"{self.cpus_per_worker:g} CPU" + (
            f" and {self.gpus_per_worker:g} GPU" if self.gpus_per_worker else ""
        )
        plural = "s" if self.workers > 1 else ""
        trials = f"{self.max_concurrent_trials} trial{'s' if self.max_concurrent_trials > 1 else ''} at once"
        return f"{trials}, each {self.workers} worker{plural} with {each}"


def plan_resources(config: ResourcesConfig, nodes: Sequence[Mapping[str, float]]) -> TrialResources:
    """Fit `config` to the nodes' totals (`[{"CPU": 8, "GPU": 2}, ...]`).

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
    limit = fitting if config.max_concurrent_trials == "auto" else config.max_concurrent_trials
    return TrialResources(config.workers, cpus, gpus, min(fitting, limit))


def slots_on(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    """Workers that fit on one node."""
    by_cpu = int(node.get("CPU", 0) / cpus + 1e-9)
    if not gpus:
        return by_cpu
    total = int(node.get("GPU", 0))
    # Ray gives a fraction from one GPU only: 0.4 fits twice into each, never five times into two.
    by_gpu = total * int(1 / gpus + 1e-9) if gpus < 1 else int(total / gpus)
    return min(by_cpu, by_gpu)


def _auto_cpus(nodes: Sequence[Mapping[str, float]], gpus: float) -> float:
    """One core a worker without GPUs; with GPUs, an even share of the scarcest node's cores."""
    if not gpus:
        return 1.0
    shares = [
        node.get("CPU", 0) / slots for node in nodes if (slots := slots_on({**node, "CPU": 1e9}, 1.0, gpus))
    ]
    share = min(shares, default=1.0)
    return float(int(share)) if share >= 1 else max(share, 0.01)
