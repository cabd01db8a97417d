"""Torch's private names, all that this package uses, each with what is relied upon.

One wheel serves every Torch from 2.10 on because these stay as they are: tests/operators/test_torch_names.py tries each
of them.
The other modules import from here, and a test keeps it so. A name whose form differs between versions is asked for by
feature, not by version.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import _C, _VF, Tensor
from torch._C import DispatchKey, DispatchKeySet, _functorch, _TorchDispatchModeKey
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch._ops import _get_dispatch_mode_pre_dispatch, _len_torch_dispatch_stack_pre_dispatch
from torch._subclasses import FakeTensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

__all__ = [
    "DispatchKey",
    "DispatchKeySet",
    "DynamicOutputShapeException",
    "FakeTensor",
    "FunctionalTensor",
    "enable_single_level_autograd_function",
    "tree_flatten",
    "tree_map",
    "tree_unflatten",
]

# Ways through the dispatcher.

after_autograd_keyset = _C._after_autograd_keyset
"""The keys below autograd: `operator.redispatch(keyset & after_autograd_keyset, ...)` goes on there."""

below_autograd = _C._AutoDispatchBelowAutograd
"""A context in which operators are called below autograd."""

without_keys = _C._ExcludeDispatchKeyGuard
"""A context, of a DispatchKeySet, in which the dispatcher passes these keys by."""


def call_below_autograd(operator, *args):
    """The operator's result, from below autograd."""
    with below_autograd():
        if in_function_mode():
            return operator(*args)
        # As the line above, but that it does not ask each argument whether it overrides Torch's functions.
        return _C._dispatch_call_boxed(operator._handle, *args)


def argument_names(operator) -> list[str]:
    """Those of its schema."""
    return [argument.name for argument in operator._schema.arguments]


dispatch_keys = _C._dispatch_keys
"""The DispatchKeySet of a tensor."""

BATCHED = _C._parse_dispatch_key("Batched")
"""The key of tensors under is_grads_batched=True, which torch.func knows nothing of."""

add_batch_dim = torch._add_batch_dim
"""add_batch_dim(tensor, dim, level): the tensor with that dimension mapped."""

remove_batch_dim = torch._remove_batch_dim
"""remove_batch_dim(tensor, level, size, dim): its inverse. A level that is not there adds a dimension of that size."""

# What a call runs under.

in_transform = _C._are_functorch_transforms_active
"""Whether one of torch.func's transforms is at work."""

in_autocast = _C._is_any_autocast_enabled
"""Whether autocast is on for any device."""

in_function_mode = _C._is_torch_function_mode_enabled
"""Whether a TorchFunctionMode is on."""

count_dispatch_modes = _C._len_torch_dispatch_stack
"""How many dispatch modes of Python are on, but for those of pre-dispatch and those of the infrastructure."""

count_pre_dispatch_modes = _len_torch_dispatch_stack_pre_dispatch
"""How many of pre-dispatch are."""

dispatch_mode = _C._get_dispatch_mode
"""The mode of a key of FAKE, PROXY and FUNCTIONAL, or None."""

pre_dispatch_mode = _get_dispatch_mode_pre_dispatch
"""The same of pre-dispatch, which has PROXY and FUNCTIONAL."""

FAKE, PROXY, FUNCTIONAL = (getattr(_TorchDispatchModeKey, name) for name in ("FAKE", "PROXY", "FUNCTIONAL"))

tracing_state = _C._get_tracing_state
"""That of torch.jit.trace, or None."""

# Autograd.

any_requires_grad = _C._any_requires_grad
"""Whether a tensor among the arguments, those in lists included, wants a gradient."""

forward_grad_enabled = _C._is_fwd_grad_enabled
"""Whether forward mode is on."""

set_forward_grad = forward_ad._set_fwd_grad_enabled
"""A context in which forward mode is on, or off."""


def in_dual_level() -> bool:
    """Whether a level of torch.autograd.forward_ad is entered."""
    return forward_ad._current_level >= 0


def primal(tensor: Tensor) -> Tensor:
    """The tensor without its tangent of this level; those of levels further out stay."""
    return _VF._unpack_dual(tensor, level=0)[0]


def plain_apply(function: type[torch.autograd.Function]) -> Callable:
    """function.apply for calls in which no torch.func transform is left.

    Function.apply itself looks for transforms first, and inspects signatures at each call. Below the dispatcher the
    transforms have been taken apart, as for any other operator.
    """
    return super(torch.autograd.Function, function).apply


# What a tensor is.

is_gradtrackingtensor = _functorch.is_gradtrackingtensor
"""Whether torch.func.grad or jvp wrapped it."""

get_unwrapped = _functorch.get_unwrapped
"""What a transform wrapped."""

is_functorch_wrapped_tensor = _functorch.is_functorch_wrapped_tensor
"""Whether any transform wrapped it."""

is_functional_tensor = torch._is_functional_tensor
"""Whether the C++ functionalization wrapped it, without Python's FunctionalTensor."""


def current_stream(index: int) -> int:
    """The CUDA stream of the calling thread on a device, as a number."""
    return _C._cuda_getCurrentRawStream(index)  # builds of Torch without CUDA have no such name


# Others.

parse_to = _C._nn._parse_to
"""The device, dtype, non_blocking and memory format that the arguments of Tensor.to() mean."""

assert_async = torch._assert_async
"""Raises RuntimeError where a tensor of one bool is False, on CUDA when the device comes to it."""


def constant_in_graphs(function: Callable) -> Callable:
    """torch.compiler.assume_constant_result, without its import of Dynamo."""
    function._dynamo_marked_constant = True
    return function
