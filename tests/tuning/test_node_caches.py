"""Which nodes build a cache, with what, and what their faults are told as; Ray itself is left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from hvqray.config.data_sections import DataConfig
from hvqray.data.dataset import PreparedData
from hvqray.errors import InputError
from hvqray.tuning.node_caches import NodeCaches, _build
from hvqray.tuning.resources import TrialResources

DATA = DataConfig()


HERE = "e"
ID_LENGTH = 56


def node(digit: str, *, alive: bool = True, **resources: float) -> dict[str, Any]:
    """A node, whose id is one hexadecimal digit again and again."""
    return {
        "NodeID": digit * ID_LENGTH,
        "Alive": alive,
        "Resources": resources,
        "NodeManagerAddress": f"10.0.0.{digit}",
    }


class Cluster:
    """Stands for Ray: notes what is submitted where, and answers with an error or nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nodes: Sequence[dict[str, Any]]) -> None:
        self.submitted: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {}
        self.errors: dict[str, Exception] = {}
        monkeypatch.setattr(
            ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: HERE * ID_LENGTH)
        )
        monkeypatch.setattr(ray, "nodes", lambda: nodes)
        monkeypatch.setattr(ray, "remote", self._remote)
        monkeypatch.setattr(ray, "get", self._get)

    def _remote(self, **needs: Any) -> Any:
        def options(*, scheduling_strategy: Any) -> Any:
            def submit(*arguments: Any) -> str:
                assert not scheduling_strategy.soft, "it must not run anywhere else"
                name: str = scheduling_strategy.node_id[0]
                self.submitted[name] = needs, arguments
                return name

            return SimpleNamespace(remote=submit)

        return lambda function: SimpleNamespace(options=options)

    def _get(self, name: str) -> None:
        if name in self.errors:
            raise self.errors[name]


def begin(*, cpus: float = 1.0, gpus: float = 0.0) -> NodeCaches:
    resources = TrialResources(1, cpus, gpus, 1)
    return NodeCaches([DATA], cache_dir=Path("/cache"), cache_limit_bytes=None, resources=resources)


def test_every_other_living_node_with_cores_builds_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [node(HERE, CPU=2.0), node("a", CPU=8.0), node("d", alive=False, CPU=4.0), node("b")]
    cluster = Cluster(monkeypatch, nodes)
    caches = begin()
    ((needs, arguments),) = cluster.submitted.values()
    assert list(cluster.submitted) == ["a"]
    assert needs["num_cpus"] == needs["num_gpus"] == 0
    assert arguments == ([DATA], Path("/cache"), None, 8, False)
    assert not caches.on_gpu


@pytest.mark.parametrize(
    ("cpus", "gpus", "expected"),
    [
        (1.0, 0.5, {"a": 1}),  # no trial can run on b, so nothing is built there
        (1.0, 0.0, {"a": 0, "b": 0}),
        (6.0, 0.0, {"b": 0}),
    ],
)
def test_nodes_where_trials_can_run_build_with_a_gpu_where_trials_use_one(
    monkeypatch: pytest.MonkeyPatch, cpus: float, gpus: float, expected: dict[str, int]
) -> None:
    cluster = Cluster(monkeypatch, [node("a", CPU=4.0, GPU=4.0), node("b", CPU=8.0)])
    caches = begin(cpus=cpus, gpus=gpus)
    assert (caches.on_gpu, caches.nodes) == (gpus > 0, len(expected))
    assert {name: needs["num_gpus"] for name, (needs, _) in cluster.submitted.items()} == expected


def test_data_that_a_node_does_not_have_are_told_as_they_are_here_and_of_which_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(monkeypatch, [node("a", CPU=1.0), node("b", CPU=1.0)])
    fault = InputError("/data is not a folder", field="data.root")
    cluster.errors["b"] = ray.exceptions.RayTaskError("_build", "a traceback\nof many lines", fault)
    caches = begin()
    with pytest.raises(InputError) as told:
        caches.wait()
    assert str(told.value) == "data.root: /data is not a folder (so it is on the node 10.0.0.b)"


def test_a_lost_node_is_told_and_ends_no_sweep_but_a_broken_build_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(monkeypatch, [node("a", CPU=1.0)])
    cluster.errors["a"] = ray.exceptions.NodeDiedError("lost")
    caches = begin()
    for _ in range(2):  # told once, however often it is waited for
        caches.wait()
    (record,) = caplog.records
    assert record.getMessage().startswith("a node's cache was not built beforehand (")
    cluster.errors["a"] = ray.exceptions.RayTaskError("_build", "a traceback", OSError("disk full"))
    with pytest.raises(ray.exceptions.RayTaskError):
        begin().wait()


def test_a_build_fills_the_cache_with_the_threads_it_is_given(
    tmp_path: Path, small_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hvqray.data import prepare

    threads: list[int] = []
    really = prepare.prepare_data

    def noting(*arguments: Any, **options: Any) -> PreparedData:
        threads.append(torch.get_num_threads())
        return really(*arguments, **options)

    monkeypatch.setattr(prepare, "prepare_data", noting)
    backbone = {"name": "resnet18", "weights": "random", "strides": [16]}
    given = {"root": str(small_images), "image_size": 32}
    finer = backbone | {"grid_stride": 8}
    both = [DataConfig.model_validate(given | {"backbone": each}) for each in (backbone, finer)]
    # A limit clears neither, as the build itself has both open.
    _build(both, tmp_path / "cache", 1, 2, False)
    assert threads == [2, 2]
    assert len(list((tmp_path / "cache").glob("features-*"))) == 2
