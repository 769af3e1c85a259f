"""What of a model's state lasts from one evaluation to the next: ranks share it, and a run goes on from it.

The rest is what every evaluation measures anew, and its ranks exchange: a matrix a location would be most of a file to resume from.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from hvqray.training.communicator import Communicator

MEASURED_ANEW = "error_map."
"""What the names of the tensors begin with that do not last."""


def lasting_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, but for what is measured before each evaluation."""
    return {
        name: tensor for name, tensor in module.state_dict().items() if not name.startswith(MEASURED_ANEW)
    }


def load_lasting_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Go on from what `lasting_state` gave."""
    keys = module.load_state_dict(state, strict=False)
    assert not keys.unexpected_keys, keys
    assert all(key.startswith(MEASURED_ANEW) for key in keys.missing_keys), keys


def share_state(module: nn.Module, communicator: Communicator) -> None:
    """Give every rank what lasts of rank 0's state."""
    if communicator.world_size > 1:
        for tensor in lasting_state(module).values():
            communicator.broadcast_(tensor)
