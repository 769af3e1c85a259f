"""How many trials fit, so that none starves."""

from __future__ import annotations

import re

import pytest

from hvqray.config.sections import ResourcesConfig
from hvqray.errors import InputError
from hvqray.tuning.resources import plan_resources


@pytest.mark.parametrize(
    ("config", "nodes", "expected"),
    [
        ({}, [{"CPU": 2}], (1, 1, 0, 2)),
        ({"workers": 2}, [{"CPU": 2}], (2, 1, 0, 1)),
        ({"workers": 2}, [{"CPU": 5}], (2, 1, 0, 2)),
        ({"cpus_per_worker": 2.0}, [{"CPU": 3}, {"CPU": 3}], (1, 2, 0, 2)),
        ({}, [{"CPU": 64, "GPU": 8}], (1, 8, 1, 8)),
        ({"workers": 4}, [{"CPU": 64, "GPU": 8}], (4, 8, 1, 2)),
        ({"gpus_per_worker": 0.25}, [{"CPU": 16, "GPU": 1}], (1, 4, 0.25, 4)),
        ({"gpus_per_worker": 0.4}, [{"CPU": 16, "GPU": 2}], (1, 4, 0.4, 4)),
        ({"gpus_per_worker": 0.0}, [{"CPU": 4, "GPU": 1}], (1, 1, 0, 4)),
        ({"max_concurrent_trials": 1}, [{"CPU": 8}], (1, 1, 0, 1)),
        ({"max_concurrent_trials": 99}, [{"CPU": 8}], (1, 1, 0, 8)),
    ],
)
def test_plan(config: dict, nodes: list[dict[str, float]], expected: tuple[int, float, float, int]) -> None:
    plan = plan_resources(ResourcesConfig(**config), nodes)
    found = (plan.workers, plan.cpus_per_worker, plan.gpus_per_worker, plan.max_concurrent_trials)
    assert found == expected


@pytest.mark.parametrize(
    ("config", "nodes", "message"),
    [
        (
            {"gpus_per_worker": 1.0},
            [{"CPU": 2}],
            "resources.gpus_per_worker: 1 is demanded, but Ray has no GPU",
        ),
        ({"workers": 3}, [{"CPU": 2}], "resources.workers: 3 workers with 1 CPU and 0 GPU each do not fit"),
        ({"cpus_per_worker": 4.0}, [{"CPU": 2}, {"CPU": 2}], "do not fit into the cluster"),
    ],
)
def test_what_cannot_run_is_refused(config: dict, nodes: list[dict[str, float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_resources(ResourcesConfig(**config), nodes)


GB = 10**9


@pytest.mark.parametrize(
    ("config", "nodes", "limit", "reserved", "warning"),
    [
        ({}, [{"CPU": 4, "memory": 8 * GB}], 4, 0, None),
        ({}, [{"CPU": 4, "memory": 7.9 * GB}], 3, 2 * GB, None),
        ({}, [{"CPU": 4}], 4, 0, None),
        ({}, [{"CPU": 4, "memory": 3 * GB}, {"CPU": 1, "memory": 9 * GB}], 2, 2 * GB, None),
        ({"workers": 2}, [{"CPU": 8, "memory": 10 * GB}], 2, 2 * GB, "holds 2 trials at once, so 4 of 8 cores stay idle; 2 would"),
        # what minds a group of workers reserves some too
        ({"workers": 2}, [{"CPU": 8, "memory": 8 * GB}], 1, 2 * GB, "holds 1 trial at once, so 6 of 8 cores stay idle; 4 would"),
        ({"workers": 2}, [{"CPU": 8, "memory": 8.3 * GB}], 2, 2 * GB, "resources.cpus_per_worker: memory holds 2 trials"),
        ({"workers": 2, "cpus_per_worker": 1}, [{"CPU": 8, "memory": 8.3 * GB}], 2, 2 * GB, None),
        ({"gpus_per_worker": 0.25}, [{"CPU": 8, "GPU": 1, "memory": 6 * GB}], 3, 2 * GB, None),
        ({"max_concurrent_trials": 3}, [{"CPU": 4, "memory": 6 * GB}], 3, 2 * GB, None),
        ({"max_concurrent_trials": 1}, [{"CPU": 8, "memory": 6 * GB}], 1, 2 * GB, None),
        # one node must not be given all eight, for which it has the cores
        ({"max_concurrent_trials": 8}, [{"CPU": 8, "memory": 8.6 * GB}] * 2, 8, 2 * GB, None),
        ({"max_concurrent_trials": 9}, [{"CPU": 4, "memory": 6 * GB}], 4, 0, "4 at once .* may take 2.0 GB, nodes have 6.0 GB; lower it to 3"),
        ({}, [{"CPU": 4, "memory": 1 * GB}], 1, 0, "1 at once may not fit .* nodes have 1.0 GB; free some, or take a smaller model"),
    ],
)  # fmt: skip
def test_memory_bounds_how_many_trials_run_at_once(
    config: dict, nodes: list[dict[str, float]], limit: int, reserved: int, warning: str | None
) -> None:
    plan = plan_resources(ResourcesConfig(**config), nodes, worker_bytes=2 * GB)
    assert (plan.max_concurrent_trials, plan.memory_per_worker) == (limit, reserved)
    if warning is None:
        assert plan.warning is None
    else:
        assert plan.warning is not None
        assert plan.warning.startswith("resources.")
        assert re.search(warning, plan.warning)


def test_the_plan_says_that_memory_bounds_it() -> None:
    nodes = [{"CPU": 4, "memory": 5 * GB}]
    assert plan_resources(ResourcesConfig(), nodes).describe() == "4 trials at once, each 1 worker with 1 CPU"
    bounded = plan_resources(ResourcesConfig(), nodes, worker_bytes=2 * GB).describe()
    assert bounded == "2 trials at once, each 1 worker with 1 CPU and 2.0 GB of memory"
