"""AdamW without torch's compiler: the same steps to the last bit, and a process that trains does not import it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hvqray.training.adamw import AdamW


@pytest.mark.parametrize("fused", [True, False])
def test_steps_and_state_are_those_of_torch(fused: bool) -> None:
    torch.manual_seed(0)
    start = torch.randn(50)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = [AdamW([ours], lr=0.1, fused=fused), torch.optim.AdamW([theirs], lr=0.1, fused=fused)]
    for step in range(6):
        if step == 3:  # each goes on from the other's state
            optimizers = [AdamW([ours], fused=fused), torch.optim.AdamW([theirs], fused=fused)]
            for optimizer, state in zip(optimizers, reversed(states), strict=True):
                optimizer.load_state_dict(state)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            assert parameter.grad is None
            (parameter**2).sum().backward()
            optimizer.step()
        assert torch.equal(ours, theirs)
        states = [optimizer.state_dict() for optimizer in optimizers]
        assert states[0]["param_groups"] == states[1]["param_groups"]
    assert not torch.equal(ours, start)
    assert ours.requires_grad
    assert optimizers[0].state[ours]["exp_avg"].grad_fn is None


def test_a_process_that_trains_does_not_import_the_compiler(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tiny_data import tiny_data\n"
        "from hvqray.config.sections import HvqConfig, RunConfig, TrainConfig\n"
        "from hvqray.training.communicator import SingleProcess\n"
        "from hvqray.training.loop import run\n"
        "import hvqray.data.prepare\n"
        "assert 'scipy' not in sys.modules\n"
        "model = HvqConfig(width=16, num_heads=2, feedforward_width=32, codebook_size=4, codebook_init='normal')\n"
        "config = RunConfig(model=model, train=TrainConfig(epochs=1, batch_size=6))\n"
        "reports = list(run(config, tiny_data(), folder=Path(sys.argv[1]), communicator=SingleProcess()))\n"
        "assert reports[-1].metrics['train/loss'] > 0\n"
        "found = {'torch._dynamo', 'torch._inductor', 'sklearn', 'scipy.stats', 'pandas', 'ray'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
