"""When a sweep says that it waits for room, and for what."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.util import get_placement_group, placement_group, remove_placement_group
from ray_head import RayHead

from hvqray.tuning import room
from hvqray.tuning.resources import TrialResources
from hvqray.tuning.room import AGAIN_S, LOOK_EVERY_S, PATIENCE_S, RoomWatch, TrialsInWait, what_is_wanting

ONE_CPU = TrialResources(1, 1.0, 0.0, 2)
TWO_WORKERS = TrialResources(2, 1.0, 0.0, 1)
GB = 10**9


class Cluster:
    """Stands for Ray and the clock: two CPUs, the placement groups of two jobs, and how often it was asked."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked = 0
        self.groups: dict[str, dict[str, Any]] = {}
        self.nodes = [
            {"Alive": True, "Resources": {"CPU": 2.0}},
            {"Alive": False, "Resources": {"CPU": 9.0}},
        ]
        self.free: dict[str, float] = {}
        self.broken = False

    def group(self, name: str, state: str, *bundles: dict[str, float], job: str = "01000000") -> None:
        self.groups[name + job] = {"state": state, "bundles": dict(enumerate(bundles or ({"CPU": 1.0},)))}

    def table(self) -> dict[str, dict[str, Any]]:
        self.asked += 1
        if self.broken:
            raise RuntimeError("the head\nis gone")
        return self.groups

    def pass_time(self, watch: TrialsInWait, seconds: float, *statuses: str) -> None:
        """As many steps as Tune takes in that time."""
        trials = [SimpleNamespace(trial_id=str(i), status=status) for i, status in enumerate(statuses)]
        until = self.now + seconds
        while self.now < until:
            self.now += 0.5
            watch.on_step_end(1, trials)


@pytest.fixture
def cluster_of_others(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: cluster.now))
    monkeypatch.setattr(room, "placement_group_table", cluster.table)
    monkeypatch.setattr(ray, "nodes", lambda: cluster.nodes)
    monkeypatch.setattr(ray, "available_resources", lambda: cluster.free)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "01000000"))
    return cluster


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda: capsys.readouterr().err.splitlines()


def test_a_wait_is_said_after_a_minute_and_then_rarely(cluster_of_others: Cluster, said: Any) -> None:
    cluster, watch = cluster_of_others, TrialsInWait(ONE_CPU)
    cluster.group("a", "PENDING")
    cluster.pass_time(watch, PATIENCE_S, "PENDING")
    assert said() == []
    cluster.pass_time(watch, 2 * LOOK_EVERY_S, "PENDING")
    assert said() == [
        "hvqray: waiting for room for 1 min 0 s: a trial needs 1 CPU; in the cluster 0 of 2 CPUs are free"
    ]
    cluster.pass_time(watch, AGAIN_S - 2 * LOOK_EVERY_S, "PENDING")
    assert said() == []
    cluster.pass_time(watch, 2 * LOOK_EVERY_S, "PENDING")
    assert len(said()) == 1


def test_each_wait_is_said_and_one_that_soon_ends_is_not(cluster_of_others: Cluster, said: Any) -> None:
    cluster, watch = cluster_of_others, TrialsInWait(ONE_CPU)
    for name in "ab":
        cluster.group(name, "PENDING")
        cluster.pass_time(watch, 2 * PATIENCE_S, "PENDING")
        assert len(said()) == 1
        cluster.group(name, "CREATED")
        cluster.pass_time(watch, PATIENCE_S, "RUNNING")
    for number in range(10):  # trials that begin one after the other
        cluster.groups.clear()
        cluster.group(f"c{number}", "PENDING")
        cluster.pass_time(watch, PATIENCE_S / 2, "PENDING")
    assert said() == []


@pytest.mark.parametrize(("workers", "states"), [(1, ["RUNNING"]), (2, ["RUNNING"]), (1, ["TERMINATED"])])
def test_nothing_is_asked_while_all_trials_run(
    cluster_of_others: Cluster, workers: int, states: list[str]
) -> None:
    watch = TrialsInWait(TrialResources(workers, 1.0, 0.0, 2))
    trial = SimpleNamespace(trial_id="0")
    watch.on_trial_start(1, [], trial)
    watch.on_trial_result(1, [], trial, {})
    cluster_of_others.pass_time(watch, 10 * PATIENCE_S, *states)
    assert cluster_of_others.asked == 0


@pytest.mark.parametrize("end", ["on_trial_complete", "on_trial_error"])
def test_workers_are_waited_for_within_a_trial_that_runs(
    cluster_of_others: Cluster, said: Any, end: str
) -> None:
    cluster, watch = cluster_of_others, TrialsInWait(TWO_WORKERS)
    cluster.free = {"CPU": 1.0}
    cluster.group("driver", "CREATED", {"memory": 1.0})
    cluster.group("train", "PENDING", {"CPU": 1.0}, {"CPU": 1.0})
    watch.on_trial_start(1, [], SimpleNamespace(trial_id="0"))
    cluster.pass_time(watch, 2 * PATIENCE_S, "RUNNING")
    assert said() == [
        "hvqray: waiting for room for 1 min 0 s: a trial needs 2 workers with 1 CPU each;"
        " in the cluster 1 of 2 CPUs are free"
    ]
    getattr(watch, end)(1, [], SimpleNamespace(trial_id="0"))
    asked = cluster.asked
    cluster.pass_time(watch, 2 * PATIENCE_S, "TERMINATED")
    assert cluster.asked == asked


def test_other_jobs_and_a_cluster_full_of_the_sweep_s_own_trials_are_passed_over(
    cluster_of_others: Cluster, said: Any
) -> None:
    cluster, watch = cluster_of_others, TrialsInWait(ONE_CPU)
    cluster.group("a", "PENDING", job="02000000")
    cluster.pass_time(watch, 2 * PATIENCE_S, "PENDING")
    for name in "bc":
        cluster.group(name, "CREATED")
    cluster.group("d", "PENDING")
    cluster.pass_time(watch, 2 * PATIENCE_S, "RUNNING", "RUNNING", "PENDING")
    assert said() == []
    cluster.nodes.append({"Alive": True, "Resources": {"CPU": 1.0}})  # which another job takes
    cluster.pass_time(watch, LOOK_EVERY_S, "RUNNING", "RUNNING", "PENDING")
    (line,) = said()
    assert line.endswith("another trial needs 1 CPU; in the cluster 0 of 3 CPUs are free; running: 2 trials")


def test_a_head_that_does_not_answer_ends_the_watch_and_not_the_sweep(
    cluster_of_others: Cluster, said: Any
) -> None:
    cluster, watch = cluster_of_others, TrialsInWait(ONE_CPU)
    cluster.broken = True
    cluster.pass_time(watch, 10 * PATIENCE_S, "PENDING")
    assert cluster.asked == 1
    assert said() == ["hvqray: whether there is room is told no more: the head"]


@pytest.mark.parametrize(
    ("resources", "nodes", "free", "running", "line"),
    [
        (
            TrialResources(1, 4.0, 1.0, 2),
            [{"CPU": 8.0, "GPU": 1.0}],
            {"CPU": 2.0},
            0,
            "a trial needs 4 CPUs and 1 GPU; in the cluster 2 of 8 CPUs and 0 of 1 GPU are free",
        ),
        (
            TrialResources(1, 4.0, 0.0, 2),
            [{"CPU": 4.0}, {"CPU": 4.0}],
            {"CPU": 5.0},
            0,
            "a trial needs 4 CPUs; in the cluster 5 of 8 CPUs are free, but not together where they are needed",
        ),
        (
            TrialResources(2, 1.0, 0.5, 2, memory_per_worker=2 * GB),
            [{"CPU": 4.0, "GPU": 1.0, "memory": 9.0 * GB}],
            {"CPU": 4.0, "GPU": 0.5, "memory": 1.0 * GB},
            0,
            "a trial needs 2 workers with 1 CPU and 0.5 GPUs and 2 GB of memory each;"
            " in the cluster 4 of 4 CPUs and 0.5 of 1 GPU and 1 of 9 GB of memory are free",
        ),
        (
            TrialResources(1, 4.0, 0.0, 2),
            [{"CPU": 2.0}, {"CPU": 3.0}],
            {"CPU": 5.0},
            0,
            "a trial needs 4 CPUs, for which the whole cluster is too small now (2 CPUs, 3 CPUs); it starts once nodes with room"
            " join, or stop the sweep and --resume it with smaller resources",
        ),
        (TrialResources(1, 4.0, 0.0, 2), [{"CPU": 7.0}], {"CPU": 3.0}, 1, None),
    ],
)
def test_what_is_wanting(
    resources: TrialResources,
    nodes: list[dict[str, float]],
    free: dict[str, float],
    running: int,
    line: str | None,
) -> None:
    assert what_is_wanting(resources, nodes, free, running) == line


def test_other_work_has_its_own_name() -> None:
    told = what_is_wanting(ONE_CPU, [{"CPU": 4.0}], {"CPU": 0.5}, 2, what="measurement")
    assert told == (
        "another measurement needs 1 CPU; in the cluster 0.5 of 4 CPUs are free; running: 2 measurements"
    )


@pytest.mark.ray
def test_on_a_cluster_the_groups_of_this_job_alone_are_looked_at(
    cluster: RayHead, monkeypatch: pytest.MonkeyPatch, said: Any
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(room, "PATIENCE_S", 0.0)
    namespace = "room"
    ray.init(address=cluster.address, namespace=namespace, log_to_driver=False)
    try:
        ours = placement_group([{"CPU": 2}], name="full", lifetime="detached")
        ray.get(ours.ready(), timeout=60)
        placement_group([{"CPU": 1}], name="waits", lifetime="detached")
        RoomWatch(ONE_CPU).look()
        (line,) = (line for line in said() if "waiting for room" in line)
        ray.shutdown()
        ray.init(address=cluster.address, namespace=namespace, log_to_driver=False)
        RoomWatch(ONE_CPU).look()
        assert not [line for line in said() if line.startswith("hvqray")]
        for name in ("full", "waits"):
            remove_placement_group(get_placement_group(name))
    finally:
        ray.shutdown()
    assert line == (
        "hvqray: waiting for room for 0 s: another trial needs 1 CPU; in the cluster 0 of 2 CPUs are free; running: 1 trial"
    )
