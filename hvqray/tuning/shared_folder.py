"""Whether a cluster's nodes see the folder that the results go to: trials write their checkpoints there, and the driver reads them."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hvqray.errors import InputError
from hvqray.tuning.node_caches import other_nodes
from hvqray.tuning.resources import TrialResources

_SEEN_WITHIN_S = 60.0
"""NFS remembers for so long that a folder was not there."""


def check_shared(folder: Path, resources: TrialResources) -> None:
    """Raise InputError where trials can run on a node that has another `folder` under this name, or none.

    Else all of them would be trained before it is found that their models are not here. A node that is lost meanwhile is passed over.
    """
    mark = folder / f".shared-{uuid.uuid4().hex}"
    mark.touch()
    try:
        look = ray.remote(num_cpus=0, max_calls=1)(_sees)
        looks = {
            node["NodeManagerAddress"]: look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(mark, _SEEN_WITHIN_S)
            for node in other_nodes(resources)
        }
        blind = [address for address, seen in looks.items() if not _got(seen)]
    finally:
        mark.unlink(missing_ok=True)
    if blind:
        nodes = "the node" if len(blind) == 1 else "the nodes"
        raise InputError(
            f"{folder} is another folder on {nodes} {', '.join(blind)}, or closed to this user there; give one on storage that all nodes see under one path",
            field="--out",
        )


def _got(seen: ray.ObjectRef[bool]) -> bool:
    try:
        return ray.get(seen)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError:  # the node is gone
        return True


def _sees(mark: Path, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not _exists(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _exists(mark: Path) -> bool:
    try:
        return mark.exists()
    except OSError:  # a folder above it is closed to this user, or its server does not answer
        return False
