"""The pretended GPU itself: it computes, it faults where CUDA would, and it counts what the host waits for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pretend_gpu import CUDA, DeviceFault, pretend_gpu
from torch import Tensor, nn


def test_a_network_trains_as_on_the_cpu() -> None:
    torch.manual_seed(0)
    on_cpu, on_gpu = nn.Linear(3, 2), nn.Linear(3, 2)
    on_gpu.load_state_dict(on_cpu.state_dict())
    x = torch.randn(5, 3)
    with pretend_gpu():
        on_gpu.to("cuda")
        assert (on_gpu.weight.device, on_gpu.weight.is_cuda) == (CUDA, True)
        results = []
        for network, given in ((on_cpu, x), (on_gpu, x.to("cuda"))):
            optimizer = torch.optim.AdamW(network.parameters(), fused=True)
            network(given).square().mean().backward()
            optimizer.step()
            results.append(network.weight.detach().cpu())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("make", [
    lambda: torch.zeros(3, device="cuda"),
    lambda: torch.tensor([1.0], device="cuda:0"),
    lambda: torch.zeros(3).to("cuda").new_tensor([1.0, 2.0]),
    lambda: torch.zeros(3).to(device=torch.device("cuda"), dtype=torch.float64),
    lambda: torch.zeros(3, device="cuda")[1:],
    lambda: torch.randn(3, device="cuda", generator=torch.Generator("cuda")),
    lambda: torch.ones(2).to("cuda").to("cuda:0"),
])  # fmt: skip
def test_what_is_made_on_the_gpu_is_there(make: Callable[[], Tensor]) -> None:
    with pretend_gpu():
        x = make()
        assert x.device == CUDA
        assert x.cpu().device.type == "cpu"
        assert torch.isfinite(x).all()


HOST, INDEX = torch.arange(3.0), torch.tensor([2, 0])


@pytest.mark.parametrize("planted", [
    lambda x: x + HOST,
    lambda x: x.index_add_(0, INDEX.to("cuda"), torch.ones(2)),
    lambda x: torch.cat([x, HOST]),
    lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
    lambda x: HOST[INDEX.to("cuda")],
    lambda x: x.normal_(generator=torch.Generator()),
    lambda x: torch.zeros(2).normal_(generator=torch.Generator("cuda")),
    lambda x: x.to("cpu", non_blocking=True),
])  # fmt: skip
def test_a_planted_mismatch_is_a_fault(planted: Callable[[Tensor], object]) -> None:
    with pretend_gpu():
        x = torch.ones(3, device="cuda")
        with pytest.raises(DeviceFault):
            planted(x)


@pytest.mark.parametrize("planted", [
    lambda x: x[0].item(),
    lambda x: bool((x > 0).all()),
    lambda x: x.tolist(),
    lambda x: x.cpu(),
    lambda x: HOST.copy_(x),
    lambda x: x.nonzero(),
    lambda x: x[x > 0],
    lambda x: x[INDEX],
    lambda x: x[[2, 0]],
    lambda x: x.unique(),
    lambda x: torch.equal(x, x),
    lambda x: x.repeat_interleave(x.long()),
    lambda x: torch.tensor([1.0, 2.0], device="cuda"),
    lambda x: HOST.to("cuda", non_blocking=True),
    lambda x: torch.linalg.cholesky(x.diag()),
])  # fmt: skip
@pytest.mark.parametrize("inference", [False, True])
def test_a_planted_wait_is_counted_with_its_line(
    planted: Callable[[Tensor], object], inference: bool
) -> None:
    with pretend_gpu() as gpu, torch.inference_mode(inference):
        x = torch.ones(3, device="cuda")
        planted(x)
    assert len(gpu.waits) >= 1
    assert gpu.waits[0].startswith("test_pretend_gpu.py:")


@pytest.mark.parametrize("planted", [
    lambda x: (x + 1) * torch.tensor(2.0),
    lambda x: x[INDEX.pin_memory().to("cuda", non_blocking=True)],
    lambda x: torch.where(x > 0, 1.0, x),
    lambda x: x.masked_fill_(x > 0, 2.0),
    lambda x: x.sort().values.cumsum(0),
    lambda x: x.random_(generator=torch.Generator("cuda").manual_seed(1)),
])  # fmt: skip
def test_what_a_gpu_does_by_itself_is_not_waited_for(planted: Callable[[Tensor], object]) -> None:
    with pretend_gpu() as gpu:
        planted(torch.ones(3, device="cuda"))
    assert gpu.waits == []
