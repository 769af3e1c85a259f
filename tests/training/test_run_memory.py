"""A run's peaks, and the bound of a slot that shares a GPU; the GPU is played by a few functions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hvqray.errors import InputError
from hvqray.training import run_memory
from hvqray.training.communicator import SingleProcess
from hvqray.training.run_memory import CONTEXT_BYTES, bound_slot, gpu_limit, peaks, slot_bytes

GIB = 2**30
GPU = torch.device("cuda")


class Gpu:
    """Stands for `torch.cuda` with one device: knows its size and bound, and notes what is asked of it."""

    def __init__(self, total: int) -> None:
        self.total, self.fraction, self.reserved, self.calls = total, 1.0, 5 * GIB, []  # type: ignore[var-annotated]

    def get_device_properties(self, device: torch.device) -> Any:
        return SimpleNamespace(total_memory=self.total)

    def set_per_process_memory_fraction(self, fraction: float, device: torch.device | int) -> None:
        torch.cuda._utils._get_device_index(device)  # as torch does: refuses `cuda` without a number
        assert isinstance(fraction, float)
        assert 0 < fraction < 1
        self.fraction = fraction
        self.calls.append("bound")

    def get_per_process_memory_fraction(self, device: torch.device | int) -> float:
        torch.cuda._utils._get_device_index(device)
        return self.fraction

    def current_device(self) -> int:
        return 0

    def empty_cache(self) -> None:
        self.calls.append("empty")

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.calls.append("reset")

    def max_memory_reserved(self, device: torch.device) -> int:
        return self.reserved


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu(80 * GIB)
    for name in (
        "get_device_properties",
        "set_per_process_memory_fraction",
        "get_per_process_memory_fraction",
        "current_device",
        "empty_cache",
        "reset_peak_memory_stats",
        "max_memory_reserved",
    ):
        monkeypatch.setattr(torch.cuda, name, getattr(gpu, name))
    return gpu


@pytest.mark.parametrize("total", [11 * GIB, 80 * GIB, 85_899_345_921])
@pytest.mark.parametrize("slots", [2, 3, 4, 7])
def test_slots_with_all_contexts_fill_a_gpu_and_no_more(total: int, slots: int) -> None:
    taken = slots * (slot_bytes(total, 1 / slots) + CONTEXT_BYTES) + CONTEXT_BYTES
    assert total - 2 * slots <= taken <= total


@pytest.mark.parametrize(("total", "share"), [(8 * GIB, 0.1), (8 * GIB, 1 / 7)])
def test_a_share_too_small_for_a_context_is_the_user_s_fault(total: int, share: float) -> None:
    with pytest.raises(
        InputError, match=r"^resources\.gpus_per_worker: 0\.1.* of a GPU with 8\.6 GB .* raise it$"
    ):
        slot_bytes(total, share)


def test_a_slot_of_a_shared_gpu_is_bounded_and_tells_its_bound(gpu: Gpu) -> None:
    bound_slot(GPU, 0.25)
    assert gpu.fraction * gpu.total == pytest.approx((80 - 1) / 4 * GIB - GIB, abs=2)
    assert gpu_limit(GPU) == pytest.approx(18.75 * GIB, abs=2)


@pytest.mark.parametrize("gpus", [0.0, 1.0, 2.0])
def test_whole_gpus_and_none_are_not_bounded(gpu: Gpu, gpus: float) -> None:
    bound_slot(GPU if gpus else torch.device("cpu"), gpus)
    assert gpu.calls == []
    assert gpu_limit(GPU) is None


def test_a_run_begins_with_peaks_of_its_own(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_memory, "restart_peak", lambda: gpu.calls.append("restart"))
    run_memory.begin_run(torch.device("cpu"))
    assert gpu.calls == ["restart"]
    run_memory.begin_run(GPU)
    # The other way round the new peak would begin at what the last run left in the allocator's cache.
    assert gpu.calls[1:] == ["restart", "empty", "reset"]


class ThreeRanks(SingleProcess):
    """This process and two others, one of which cannot tell its resident memory."""

    def all_gather_object(self, value: Any) -> list[Any]:
        return [(None, 7 * GIB), value, (1, 6 * GIB)]


def test_peaks_are_those_of_the_largest_process(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_memory, "peak_resident_bytes", lambda: 3 * GIB)
    assert peaks(SingleProcess("cpu")) == (3 * GIB, None)
    assert peaks(SingleProcess("cuda")) == (3 * GIB, 5 * GIB)
    assert peaks(ThreeRanks("cuda")) == (3 * GIB, 7 * GIB)
    monkeypatch.setattr(run_memory, "peak_resident_bytes", lambda: None)
    assert peaks(SingleProcess("cpu")) == (None, None)
