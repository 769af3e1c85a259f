"""A GPU that is not there: tensors that say they are on `cuda:0`, compute on the CPU, and fault where CUDA's would.

`with pretend_gpu() as gpu:` lends torch such a device. To torch's own code its tensors are on `meta`, for which no driver is asked;
within each is a CPU tensor that holds the values. A `DeviceFault` is raised where a GPU's tensor meets the host's, and `gpu.waits`
names the lines at which the host would wait for the GPU. Not seen: kernels that CUDA lacks, its autocast, its memory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

aten = torch.ops.aten
CUDA, META, CPU = torch.device("cuda", 0), torch.device("meta"), torch.device("cpu")
MADE_OF_OTHERS = torch._C.DispatchKey.CompositeImplicitAutograd
WAITING = [aten._local_scalar_dense, aten._linalg_check_errors, aten.bincount, aten.equal, aten.nonzero]
WAITING += [aten.masked_select, aten.unique_consecutive, aten.unique_dim, aten._unique2]
INDEXING = [aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_]


class DeviceFault(RuntimeError):
    """What would be an error, or wrong values, on a real GPU."""


class PretendTensor(Tensor):
    """A tensor on the GPU; `inner` has its values."""

    def __new__(cls, inner: Tensor) -> PretendTensor:
        place = (inner.shape, inner.stride(), inner.storage_offset())
        wrapper = Tensor._make_wrapper_subclass(cls, *place, dtype=inner.dtype, device=META)
        wrapper.inner = inner
        return wrapper

    device, is_cuda, is_meta = (property(lambda _, answer=answer: answer) for answer in (CUDA, True, False))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise DeviceFault(f"{func}: a tensor has outlived its pretended GPU")


class PretendGenerator(torch.Generator):
    """One of the host or of the GPU, whose draws are a CPU's."""

    device: Any = CPU

    def __new__(cls, device: torch.device | str = CPU) -> PretendGenerator:
        generator = super().__new__(cls, CPU)
        generator.device = torch.device(device)
        return generator


class _Calls(TorchFunctionMode):
    """Calls of torch's functions: `cuda` becomes `meta`, and what C++ does behind our back with such tensors is spelt out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        if (generator := kwargs.get("generator")) is not None:
            device = args[0].device if isinstance(args[0], Tensor) else kwargs.get("device")
            if _is_cuda(generator.device) != _is_cuda(device):
                raise DeviceFault(f"{func}: a generator on {generator.device} for a tensor on {device}")
        if func is torch.tensor and _is_cuda(kwargs.get("device")):
            return func(*args, **kwargs | {"device": CPU}).to(META)
        if func is Tensor.pin_memory:
            pinned = args[0].detach()
            pinned.is_pinned_here = True
            return pinned
        if args and isinstance(args[0], PretendTensor):
            if func is Tensor.tolist:
                return args[0].cpu().tolist()
            if func is Tensor.new_tensor:
                return torch.tensor(*args[1:], **{"dtype": args[0].dtype} | kwargs).to(META)
            if func in (Tensor.__getitem__, Tensor.__setitem__):
                index = args[1] if isinstance(args[1], tuple) else (args[1],)
                index = tuple(torch.tensor(x).to(META) if isinstance(x, list) else x for x in index)
                args = (args[0], index, *args[2:])
        args = [META if _is_cuda(x) else x for x in args]
        return func(*args, **{name: META if _is_cuda(x) else x for name, x in kwargs.items()})


class PretendGpu(TorchDispatchMode):
    """Operations, below autograd: computed on the CPU, and watched for what a GPU would mind."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        """`FILE:LINE OPERATION` of each for which the host would wait; the line is the innermost one outside of libraries."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        pretended, plain = list[PretendTensor](), list[Tensor]()

        def inner(x: Any) -> Any:
            if isinstance(x, PretendTensor):
                pretended.append(x)
                return x.inner
            if isinstance(x, Tensor):
                plain.append(x)
            return [inner(each) for each in x] if isinstance(x, (list, tuple)) else x

        kwargs = kwargs or {}
        inner_args, inner_kwargs = [inner(x) for x in args], {name: inner(x) for name, x in kwargs.items()}
        assert not any(x.is_meta for x in plain), f"{func}: torch has made a tensor out of our sight"
        if not pretended and kwargs.get("device") != META:
            return func(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), MADE_OF_OTHERS):
            with self:  # in inference mode operations come whole
                return func._op_dk(MADE_OF_OTHERS, *args, **kwargs)
        on_gpu = kwargs.get("device") in (None, META)
        if func is aten.copy_.default:
            on_gpu = isinstance(args[0], PretendTensor)
            self._watch_copy(func, args[1], not on_gpu, args[2:] == (True,))
        elif func is aten._to_copy.default:
            self._watch_copy(func, args[0], not on_gpu, kwargs.get("non_blocking", False))
        else:
            self._watch(func, args, plain)
        inner_kwargs |= {"device": CPU} if "device" in kwargs else {}
        wrapper_of = {id(x.inner): x for x in pretended}

        def wrapped(x: Any) -> Any:
            if not isinstance(x, Tensor) or not on_gpu:
                return x
            wrapper = wrapper_of[id(x)] if id(x) in wrapper_of else PretendTensor(x)
            assert wrapper.shape == x.shape, f"{func} has changed a tensor's shape in place"
            return wrapper

        # In inference mode a view of an ordinary tensor is ordinary too, which a wrapper made there would not be.
        ordinary = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
        with ordinary, torch.no_grad():
            return tree_map(wrapped, func(*inner_args, **inner_kwargs))

    def _watch_copy(self, func: Any, source: Tensor, to_host: bool, non_blocking: bool) -> None:
        if to_host and non_blocking:
            raise DeviceFault("a copy to the host is read before it has ended")
        # Out of pageable memory the driver may copy behind all that the GPU has still to do.
        at_once = isinstance(source, PretendTensor) or (non_blocking and hasattr(source, "is_pinned_here"))
        if to_host or not at_once:
            self._wait(func)

    def _watch(self, func: Any, args: Any, plain: list[Tensor]) -> None:
        packet = func.overloadpacket
        indices = [x for x in args[1] if x is not None] if packet in INDEXING else []
        # Of the host CUDA takes single numbers in arithmetic, and integers to index with.
        if torch.Tag.pointwise in func.tags or packet in (*INDEXING, aten.where, aten.fill_):
            plain = [x for x in plain if x.ndim and not any(x is index for index in indices)]
        if plain or (indices and not isinstance(args[0], PretendTensor)):
            raise DeviceFault(f"{func}: tensors of the GPU and of the host, {[(*x.shape,) for x in plain]}")
        to_be_read = any(not isinstance(x, PretendTensor) or x.dtype == torch.bool for x in indices)
        if to_be_read or packet in WAITING or func is aten.repeat_interleave.Tensor:
            self._wait(func)

    def _wait(self, func: Any) -> None:
        frame: Any = sys._getframe()
        while frame.f_code.co_filename == __file__ or "site-packages" in frame.f_code.co_filename:
            frame = frame.f_back
        self.waits.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {func}")


def _is_cuda(x: Any) -> bool:
    return x.type == "cuda" if isinstance(x, torch.device) else isinstance(x, str) and x in ("cuda", "cuda:0")


@contextmanager
def pretend_gpu() -> Iterator[PretendGpu]:
    """One GPU for torch in this block."""
    load = torch.load

    def load_onto(*args: Any, map_location: Any, **named: Any) -> Any:
        loaded = load(*args, map_location=CPU, **named)
        return tree_map(lambda x: x.to(map_location) if isinstance(x, Tensor) else x, loaded)

    # Without bfloat16, since autocast passes `meta` by.
    zeros, ones = ("current_device", "is_bf16_supported"), ("device_count", "is_available")
    answers = dict.fromkeys(("empty_cache", "reset_peak_memory_stats")) | dict.fromkeys(zeros, 0)
    answers |= dict.fromkeys(ones, 1) | {"get_device_name": "pretended GPU", "max_memory_reserved": 2**20}
    answers |= {"get_device_properties": SimpleNamespace(total_memory=80 * 2**30)}
    answers |= {"get_per_process_memory_fraction": 1.0}
    functions = {name: lambda *_, answer=answer, **__: answer for name, answer in answers.items()}
    stream = SimpleNamespace(is_capturing=lambda: False)
    with ExitStack() as stack:
        stack.enter_context(patch.multiple(torch.cuda, **functions))
        stack.enter_context(patch.multiple(torch, Generator=PretendGenerator, load=load_onto))
        stack.enter_context(patch.object(torch.accelerator, "current_stream", lambda: stream))
        stack.enter_context(_Calls())
        yield stack.enter_context(PretendGpu())
