"""What Torch needs to know about the attention operators beside their kernels: fakes, autograd and autocast.

The schemas and kernels are in kernels/torch; the stable ABI that they are written on has no autograd, so it is here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch._C import (
    DispatchKey,
    DispatchKeySet,
    _after_autograd_keyset,
    _AutoDispatchBelowAutograd,
    _ExcludeDispatchKeyGuard,
)

from ._autograd import as_kernel
from ._errors import NoKernelError, translate
from .normalizers import SAVED

_forward = torch.ops.splash.attention_forward.default
_backward = torch.ops.splash.attention_backward.default
_library = torch.library.Library("splash", "IMPL")


class Problem(NamedTuple):
    """The arguments that both operators share, in the order of their schemas: all from `pattern` on."""

    pattern: str
    pattern_ints: list[int]
    pattern_tensors: list[Tensor]
    normalizer: str
    normalizer_floats: list[float]
    normalizer_parameters: list[Tensor]
    lengths: Tensor | None
    kv_lengths: Tensor | None
    cu_seqlens_q: Tensor | None
    cu_seqlens_k: Tensor | None
    max_seqlen_q: int
    max_seqlen_k: int
    q_start: int
    k_start: int
    scale: float
    deterministic: bool


@torch.library.register_fake("splash::attention_forward")
def _(q, k, v, *problem):
    statistic = q.new_empty(q.shape[:3], dtype=torch.float64 if q.dtype is torch.float64 else torch.float32)
    saved = statistic.new_empty((SAVED[Problem(*problem).normalizer], *statistic.shape))
    return _allocate_like(q), statistic, saved


@torch.library.register_fake("splash::attention_backward")
def _(grad_out, grad_statistic, q, k, v, out, statistic, saved, *problem):
    parameters = [parameter.new_empty(parameter.shape) for parameter in Problem(*problem).normalizer_parameters]
    return _allocate_like(q), _allocate_like(k), _allocate_like(v), parameters


def _allocate_like(tensor: Tensor) -> Tensor:
    """As the kernels allocate: the order of the strides is kept, as long as it ends with the last dimension."""
    like = torch.empty_like(tensor)
    return like if like.shape[-1] <= 1 or like.stride(-1) == 1 else tensor.new_empty(tensor.shape)


class _Forward(torch.autograd.Function):
    """The forward with gradients into q, k, v and the normalizer's parameters, from the output and from the statistic.

    Autograd does not look into lists, so the parameters come once more behind the operator's own arguments.
    """

    @staticmethod
    def forward(keyset, q, k, v, *rest):
        problem, parameters = _split(rest)
        with _AutoDispatchBelowAutograd():
            problem = problem._replace(normalizer_parameters=parameters)
            return _forward.redispatch(keyset & _after_autograd_keyset, q, k, v, *problem)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, q, k, v, *rest = inputs
        problem, parameters = _split(rest)
        out, statistic, saved = output
        ctx.mark_non_differentiable(saved)
        ctx.set_materialize_grads(False)
        tensors = (problem.lengths, problem.kv_lengths, problem.cu_seqlens_q, problem.cu_seqlens_k)
        ctx.save_for_backward(q, k, v, out, statistic, saved, *tensors, *parameters, *problem.pattern_tensors)
        ctx.parameters = len(parameters)
        ctx.problem = problem._replace(
            pattern_tensors=[], normalizer_parameters=[], lengths=None, kv_lengths=None, cu_seqlens_q=None,
            cu_seqlens_k=None,
        )  # fmt: skip

    @staticmethod
    def backward(ctx, grad_out, grad_statistic, _):
        q, k, v, out, statistic, saved, lengths, kv_lengths, cu_seqlens_q, cu_seqlens_k, *lists = ctx.saved_tensors
        problem = ctx.problem._replace(
            pattern_tensors=lists[ctx.parameters :], normalizer_parameters=lists[: ctx.parameters], lengths=lengths,
            kv_lengths=kv_lengths, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k,
        )  # fmt: skip
        # The operator's own flag is the user's wish at the time of the forward.
        problem = problem._replace(deterministic=problem.deterministic or torch.are_deterministic_algorithms_enabled())
        grad_out = torch.zeros_like(out) if grad_out is None else grad_out
        try:
            *gradients, of_parameters = _backward(grad_out, grad_statistic, q, k, v, out, statistic, saved, *problem)
        except RuntimeError as error:
            raise translate(error) from None
        return None, *gradients, *[None] * len(problem), *of_parameters


class _Backward(torch.autograd.Function):
    """The backward as an operator of its own: it has no derivative, and says so where one is taken."""

    @staticmethod
    def forward(keyset, *args):
        tensors, rest = args[:8], args[8:]
        problem, parameters = _split(rest)
        with _AutoDispatchBelowAutograd():
            problem = problem._replace(normalizer_parameters=parameters)
            *gradients, of_parameters = _backward.redispatch(keyset & _after_autograd_keyset, *tensors, *problem)
        return *gradients, *of_parameters

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *gradients):
        raise NoKernelError("attention: second derivatives have no kernels")


def _split(rest) -> tuple[Problem, list[Tensor]]:
    count = len(Problem._fields)
    return Problem(*rest[:count]), list(rest[count:])


def _autograd(function, tensors: int):
    """The kernel of an operator that has so many tensors before the shared arguments."""
    run = as_kernel(function)

    def kernel(keyset, *args):
        problem = Problem(*args[tensors:])
        parameters = problem.normalizer_parameters or ()  # AOTInductor makes None of an empty list
        return run(keyset, *args[:tensors], *problem._replace(normalizer_parameters=[]), *parameters)

    return kernel


_forward_kernel = _autograd(_Forward, 3)
_flat_backward = _autograd(_Backward, 8)


def _backward_kernel(keyset, *args):
    grad_q, grad_k, grad_v, *of_parameters = _flat_backward(keyset, *args)
    return grad_q, grad_k, grad_v, of_parameters


def _autocast(device_type: str, key: DispatchKey):
    """As SDPA: floating tensors other than float64 are cast to the autocast dtype. The normalizer's are left alone."""
    excluded = DispatchKeySet(key)

    def kernel(keyset, q, k, v, *problem):
        dtype = torch.get_autocast_dtype(device_type)
        cast = [t if t.dtype is torch.float64 else t.to(dtype) for t in (q, k, v)]
        with _ExcludeDispatchKeyGuard(excluded):
            return _forward(*cast, *problem)

    return kernel


_library.impl("attention_forward", _forward_kernel, "Autograd", with_keyset=True)
_library.impl("attention_backward", _backward_kernel, "Autograd", with_keyset=True)
for _device, _key in (("cpu", DispatchKey.AutocastCPU), ("cuda", DispatchKey.AutocastCUDA)):
    _library.impl("attention_forward", _autocast(_device, _key), _key.name, with_keyset=True)
