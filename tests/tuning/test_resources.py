"""How many trials fit, so that none starves."""

from __future__ import annotations

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
