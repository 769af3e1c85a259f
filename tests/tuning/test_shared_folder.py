"""Whether nodes see the folder of the results; Ray itself is left out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from hvqray.errors import InputError
from hvqray.tuning import shared_folder
from hvqray.tuning.resources import TrialResources
from hvqray.tuning.shared_folder import check_shared

ONE_CPU = TrialResources(1, 1.0, 0.0, 1)


class Cluster:
    """Stands for Ray: nodes by the last number of their address, each with a folder of its own, the shared one, or lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, shared: Path, own: dict[str, Path | None]) -> None:
        self._shared, self._own = shared, own
        nodes = [
            {
                "NodeID": number * 56,
                "Alive": True,
                "Resources": {"CPU": 1.0},
                "NodeManagerAddress": f"10.0.0.{number}",
            }
            for number in own
        ]
        monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "e" * 56))
        monkeypatch.setattr(ray, "nodes", lambda: nodes)
        monkeypatch.setattr(ray, "remote", self._remote)
        monkeypatch.setattr(ray, "get", lambda answer: answer())
        monkeypatch.setattr(shared_folder, "_SEEN_WITHIN_S", 0.0)

    def _remote(self, **needs: Any) -> Any:
        assert needs["num_cpus"] == 0, "it must not wait for another job"

        def options(look: Any, scheduling_strategy: Any) -> Any:
            own = self._own[scheduling_strategy.node_id[0]]

            def answer(mark: Path, within_s: float) -> bool:
                if own is None:
                    raise ray.exceptions.NodeDiedError("lost")
                return look(own / mark.relative_to(self._shared), within_s)

            return SimpleNamespace(remote=lambda *arguments: lambda: answer(*arguments))

        return lambda look: SimpleNamespace(
            options=lambda *, scheduling_strategy: options(look, scheduling_strategy)
        )


def test_a_shared_folder_passes_and_nothing_is_left_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cluster(monkeypatch, tmp_path, {"1": tmp_path, "2": tmp_path, "3": None})
    check_shared(tmp_path, ONE_CPU)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_a_node_may_not_look_into_is_told_likewise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    Cluster(monkeypatch, tmp_path, {"1": tmp_path})
    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(InputError, match=r"on the node 10\.0\.0\.1, or closed to this user there; give one"):
        check_shared(tmp_path, ONE_CPU)
    assert not list(tmp_path.iterdir())


def test_nodes_that_have_another_folder_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, other = tmp_path / "shared", tmp_path / "other"
    shared.mkdir()
    other.mkdir()
    Cluster(monkeypatch, shared, {"1": shared, "2": other, "3": tmp_path / "missing"})
    with pytest.raises(InputError) as told:
        check_shared(shared, ONE_CPU)
    assert str(told.value) == (
        f"--out: {shared} is another folder on the nodes 10.0.0.2, 10.0.0.3, or closed to this user there; give one on storage that all nodes see under one path"
    )
    assert not list(shared.iterdir())
