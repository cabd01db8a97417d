"""Whether Python may look at what a tensor holds: the only place that decides it.

Values are out of reach while a graph is made that will meet others (torch.compile, torch.export, make_fx,
torch.jit.trace), where a tensor stands for another one (fake, meta, functional, mapped by vmap), and while a CUDA
stream is captured. Whoever reads asks for each tensor that is read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _torch
from ._torch import FAKE, FUNCTIONAL, PROXY

_STAND_INS = (_torch.FakeTensor, _torch.FunctionalTensor)


def compiling() -> bool:
    """Whether torch.compile or torch.export follows the code that runs."""
    return torch.compiler.is_compiling()


def exporting() -> bool:
    """Whether the graph that is made will be saved, and may run where nothing of this package is."""
    return torch.compiler.is_exporting()


def smaller(a: int, b: int) -> int:
    """The smaller one of two numbers, without asking which it is where a graph is to serve all of them."""
    return min(a, b) if torch.compiler.is_dynamo_compiling() else torch.sym_min(a, b)


def larger(a: int, b: int) -> int:
    """The larger one, likewise."""
    return max(a, b) if torch.compiler.is_dynamo_compiling() else torch.sym_max(a, b)


@_torch.constant_in_graphs
def transforming() -> bool:
    """Whether torch.func's transforms are at work; what torch.compile finds when it traces is settled there."""
    return _torch.in_transform()


def tracing() -> bool:
    """Whether what runs now becomes a graph, or runs on tensors that only stand for others."""
    if torch.compiler.is_compiling() or _torch.tracing_state() is not None:
        return True
    if _torch.count_dispatch_modes() == 0 and _torch.count_pre_dispatch_modes() == 0:
        return False
    if any(_torch.dispatch_mode(mode) is not None for mode in (FAKE, PROXY, FUNCTIONAL)):
        return True
    return any(_torch.pre_dispatch_mode(mode) is not None for mode in (PROXY, FUNCTIONAL))


def readable(tensor: Tensor) -> bool:
    """Whether Python may look at the tensor's values. Those of another device than the CPU make it wait."""
    if tracing() or tensor.is_meta:
        return False
    while _torch.is_gradtrackingtensor(tensor):
        tensor = _torch.get_unwrapped(tensor)
    return not (_stands_in(tensor) or is_capturing(tensor))


def checkable(tensor: Tensor, validate: bool = False) -> bool:
    """Whether its values are to be checked: on the CPU always, on a device, which makes Python wait, if so wished."""
    return (validate or tensor.device.type == "cpu") and readable(tensor)


def lasting(tensor: Tensor) -> bool:
    """Whether the tensor is the same thing in every later call, and may be kept for one."""
    return type(tensor) is Tensor and not (
        tracing() or _stands_in(tensor) or tensor.is_inference() or is_capturing(tensor)
    )


def _stands_in(tensor: Tensor) -> bool:
    return (
        isinstance(tensor, _STAND_INS)
        or _torch.is_functorch_wrapped_tensor(tensor)
        or _torch.is_functional_tensor(tensor)
    )


def is_capturing(tensor: Tensor) -> bool:
    """Whether work on the tensor goes into a CUDA graph now, which will read its memory again later."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
