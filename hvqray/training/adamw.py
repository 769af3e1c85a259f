"""AdamW without torch's compiler (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019)."""

from __future__ import annotations

import inspect

import torch


class AdamW(torch.optim.AdamW):
    """torch's own, less the wrappers that import its compiler at the first use of an optimiser.

    The compiler is there for models that are compiled, which none of ours is. To import it takes 2 to 4 seconds of a core and
    some 100 MB in every process that trains: half of what a trial's process needs to get to its first step.
    """

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
