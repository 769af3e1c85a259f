"""Tensors between processes: what two gloo ranks, and one process alone, make of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from two_ranks import run_two_ranks

from hvqray.training.communicator import Communicator, ProcessGroup, SingleProcess


def exchange(communicator: Communicator) -> dict[str, object]:
    """Every collective once; each rank begins with values of its own."""
    rank = communicator.rank
    summed = torch.tensor([1.0 + rank, 10.0 * rank])
    flags = torch.tensor([rank == 0, rank == 1, True])
    scalar = torch.tensor(rank == 0)
    counts = torch.tensor([7, 8]) * (rank + 1)
    half, quarter = (
        torch.tensor([0.5, 1.5], dtype=dtype) * (rank + 1) for dtype in (torch.bfloat16, torch.float16)
    )
    in_place = communicator.all_reduce_sum_(summed) is summed
    in_place &= all(
        communicator.broadcast_(tensor) is tensor for tensor in (flags, scalar, counts, half, quarter)
    )
    of_the_last = torch.tensor([rank + 0.5])
    communicator.broadcast_(of_the_last, src=communicator.world_size - 1)
    return {
        "rank": rank,
        "world_size": communicator.world_size,
        "in_place": in_place,
        "summed": summed.tolist(),
        "flags": flags.tolist(),
        "scalar": scalar.item(),
        "counts": counts.tolist(),
        "half": [half.tolist(), quarter.tolist()],
        "of_the_last": of_the_last.item(),
        "gathered": communicator.all_gather_object({"rank": rank, "name": "x" * (1 + rank)}),
    }


def _rank(rank: int, folder: str) -> None:
    Path(folder, f"{rank}.json").write_text(json.dumps(exchange(ProcessGroup("cpu"))))


@pytest.mark.slow
def test_two_ranks(tmp_path: Path, free_port: int) -> None:
    run_two_ranks(_rank, free_port, str(tmp_path))
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == {
            "rank": rank,
            "world_size": 2,
            "in_place": True,
            "summed": [3.0, 10.0],
            "flags": [True, False, True],
            "scalar": True,
            "counts": [7, 8],
            "half": [[0.5, 1.5], [0.5, 1.5]],
            "of_the_last": 1.5,
            "gathered": [{"rank": 0, "name": "x"}, {"rank": 1, "name": "xx"}],
        }


def test_one_process_keeps_what_it_has() -> None:
    found = exchange(SingleProcess())
    assert (found["rank"], found["world_size"], found["in_place"]) == (0, 1, True)
    assert found["summed"] == [1.0, 0.0]
    assert found["flags"] == [True, False, True]
    assert found["gathered"] == [{"rank": 0, "name": "x"}]
