"""The file that the published HVQ-Trans code saves, read without executing anything that lies in it.

Such a file is a pickle of {epoch, arch, state_dict, best_metric, optimizer}. Beside tensors it holds settings
(`easydict.EasyDict`) and often a NumPy number; those are read as inert stand-ins and thrown away.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hvqray.errors import InputError

DDP_PREFIX = "module."


class _Inert:
    """Stands for a number that does not matter: takes any arguments and state, and does nothing."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_NUMPY_NAMES = (
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "numpy.dtypes.Float64DType",
    "numpy.dtypes.Float32DType",
)
_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (OrderedDict, "easydict.EasyDict"),  # the one kind of dict that may be given attributes
    *((_Inert, name) for name in _NUMPY_NAMES),
]


def read_published(path: Path) -> dict[str, Tensor]:
    """The tensors by their published names, without the `module.` that DDP puts before each.

    Raises:
        InputError: the file is missing, damaged, holds pickled code, or no mapping of names to tensors.
    """
    if not path.is_file():
        raise InputError(
            "no such file; give the checkpoint (.pth, .pth.tar) of the published code", source=str(path)
        )
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise many kinds for a damaged file
        message = (
            "holds pickled code, which is never run; save its state_dict alone, with torch.save, and give that file"
            if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error)
            else "cannot be read as a checkpoint: it is damaged, or no PyTorch file"
        )
        raise InputError(message, source=str(path)) from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items())
    ):
        raise InputError("holds no state_dict (a mapping of names to tensors)", source=str(path))
    return {name.removeprefix(DDP_PREFIX): tensor for name, tensor in content.items()}
