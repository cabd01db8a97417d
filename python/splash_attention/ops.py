"""What Torch needs to know about the operators beside their kernels: fakes, autograd and autocast.

The schemas and kernels are in kernels/torch; the stable ABI that they are written on has no autograd, so it is here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C import (
    DispatchKey,
    DispatchKeySet,
    _after_autograd_keyset,
    _AutoDispatchBelowAutograd,
    _ExcludeDispatchKeyGuard,
)
from torch._functorch.autograd_function import enable_single_level_autograd_function

from ._errors import NoKernelError, translate
from .normalizers import NORMALIZERS

_forward = torch.ops.splash.attention_forward.default
_backward = torch.ops.splash.attention_backward.default
_library = torch.library.Library("splash", "IMPL")


@torch.library.register_fake("splash::attention_forward")
def _(q, k, v, pattern, ints, tensors, normalizer, floats, lengths, kv_lengths, q_start, k_start, scale):
    statistic = q.new_empty(q.shape[:3], dtype=torch.float64 if q.dtype is torch.float64 else torch.float32)
    saved = statistic.new_empty((NORMALIZERS[normalizer].saved, *statistic.shape))
    return _allocate_like(q), statistic, saved


@torch.library.register_fake("splash::attention_backward")
def _(grad_out, grad_statistic, q, k, v, *rest):
    return _allocate_like(q), _allocate_like(k), _allocate_like(v)


def _allocate_like(tensor: Tensor) -> Tensor:
    """As the kernels allocate: the order of the strides is kept, as long as it ends with the last dimension."""
    like = torch.empty_like(tensor)
    return like if like.shape[-1] <= 1 or like.stride(-1) == 1 else tensor.new_empty(tensor.shape)


class _Forward(torch.autograd.Function):
    """The forward with gradients into q, k and v, from the output and from the statistic."""

    @staticmethod
    def forward(keyset, *args):
        with _AutoDispatchBelowAutograd():
            return _forward.redispatch(keyset & _after_autograd_keyset, *args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, q, k, v, pattern, ints, tensors, normalizer, floats, lengths, kv_lengths, *numbers = inputs
        out, statistic, saved = output
        ctx.mark_non_differentiable(saved)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, out, statistic, saved, lengths, kv_lengths, *tensors)
        ctx.settings = pattern, ints, normalizer, floats, numbers

    @staticmethod
    def backward(ctx, grad_out, grad_statistic, _):
        q, k, v, out, statistic, saved, lengths, kv_lengths, *tensors = ctx.saved_tensors
        pattern, ints, normalizer, floats, numbers = ctx.settings
        grad_out = torch.zeros_like(out) if grad_out is None else grad_out
        try:
            gradients = _backward(
                grad_out, grad_statistic, q, k, v, out, statistic, saved, pattern, ints, tensors, normalizer, floats,
                lengths, kv_lengths, *numbers, torch.are_deterministic_algorithms_enabled(),
            )  # fmt: skip
        except RuntimeError as error:
            raise translate(error) from None
        return None, *gradients, *[None] * 10


class _Backward(torch.autograd.Function):
    """The backward as an operator of its own: it has no derivative, and says so where one is taken."""

    @staticmethod
    def forward(keyset, *args):
        with _AutoDispatchBelowAutograd():
            return _backward.redispatch(keyset & _after_autograd_keyset, *args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *gradients):
        raise NoKernelError("attention: second derivatives have no kernels")


def _autograd(function):
    # Function.apply wants to see torch.func transforms first, and inspects signatures at each call. Here the dispatcher
    # has already taken the transforms apart, as for any other operator: the plain apply below it is the right one.
    apply = super(torch.autograd.Function, function).apply

    def kernel(keyset, *args):
        if not (torch.is_grad_enabled() and torch._C._any_requires_grad(*args)):
            return function.forward(keyset, *args)
        if not torch._C._are_functorch_transforms_active():
            return apply(keyset, *args)
        with enable_single_level_autograd_function():
            return apply(keyset, *args)

    return kernel


def _autocast(device_type: str, key: DispatchKey):
    """As SDPA: floating tensors other than float64 are cast to the autocast dtype."""
    excluded = DispatchKeySet(key)

    def kernel(keyset, q, k, v, *args):
        dtype = torch.get_autocast_dtype(device_type)
        cast = [t if t.dtype is torch.float64 else t.to(dtype) for t in (q, k, v)]
        with _ExcludeDispatchKeyGuard(excluded):
            return _forward(*cast, *args)

    return kernel


_library.impl("attention_forward", _autograd(_Forward), "Autograd", with_keyset=True)
_library.impl("attention_backward", _autograd(_Backward), "Autograd", with_keyset=True)
for _device, _key in (("cpu", DispatchKey.AutocastCPU), ("cuda", DispatchKey.AutocastCUDA)):
    _library.impl("attention_forward", _autocast(_device, _key), _key.name, with_keyset=True)
