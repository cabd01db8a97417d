"""What Torch needs to know about the attention operators beside their kernels: fakes, autograd and autocast.

The schemas and kernels are in kernels/torch; the stable ABI that they are written on has no autograd, so it is here.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from . import _fakes
from ._autograd import Function, as_kernel, observed
from ._constants import saved_numbers
from ._errors import translate
from ._torch import (
    DispatchKey,
    DispatchKeySet,
    any_requires_grad,
    argument_names,
    call_below_autograd,
    in_autocast,
    in_transform,
    plain_apply,
    without_keys,
)
from ._values import exporting

_forward = torch.ops.splash.attention_forward.default
_backward = torch.ops.splash.attention_backward.default
_library = torch.library.Library("splash", "IMPL")
_PLAIN = frozenset((Tensor, torch.nn.Parameter))


class Problem(NamedTuple):
    """The arguments that both operators share, in the order of their schemas: all from `pattern` on.

    Made by keyword; of what the dispatcher hands over, in that order, by `_make`. A test compares it with the schemas.
    """

    pattern: str
    pattern_ints: list[int]
    pattern_tensors: list[Tensor]
    normalizer: str
    normalizer_floats: list[float]
    normalizer_parameters: list[Tensor]
    lengths: Tensor | None = None
    kv_lengths: Tensor | None = None
    cu_seqlens_q: Tensor | None = None
    cu_seqlens_k: Tensor | None = None
    max_seqlen_q: int = 0
    max_seqlen_k: int = 0
    q_start: int = 0
    k_start: int = 0
    scale: float = 1.0
    deterministic: bool = False

    def tensors(self) -> tuple[Tensor | None, ...]:
        """All but the normalizer's parameters."""
        return self.lengths, self.kv_lengths, self.cu_seqlens_q, self.cu_seqlens_k, *self.pattern_tensors

    def restored(self, tensors: list[Tensor | None], deterministic: bool) -> Problem:
        """The same problem of the parameters and then the tensors() that autograd kept."""
        if deterministic is self.deterministic and all(tensor is None for tensor in tensors):
            return self
        count = len(self.normalizer_parameters)
        lengths, kv_lengths, cu_seqlens_q, cu_seqlens_k, *pattern_tensors = tensors[count:]
        return self._replace(
            lengths=lengths, kv_lengths=kv_lengths, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k,
            normalizer_parameters=tensors[:count], pattern_tensors=pattern_tensors, deterministic=deterministic,
        )  # fmt: skip


make_problem = partial(Problem.__new__, Problem)
"""Problem(...) of keywords, in half the time: a class that is called makes a dictionary of them."""

_TENSOR_LISTS = ("pattern_tensors", "normalizer_parameters")
_BACKWARD_TENSORS = len(argument_names(_backward)) - len(Problem._fields)  # before the problem


@torch.library.register_fake("splash::attention_forward")
def _(q, k, v, *problem):
    problem = _problem(problem)
    shape, _ = _fakes.check_problem(q, k, v, problem)
    statistic = q.new_empty(shape[:3], dtype=_fakes.statistic_dtype(q))
    saved = statistic.new_empty((saved_numbers(problem.normalizer, q.device.type), *statistic.shape))
    return _allocate_like(q), statistic, saved


@torch.library.register_fake("splash::attention_backward")
def _(grad_out, grad_statistic, q, k, v, out, statistic, saved, *problem):
    problem = _problem(problem)
    shape, _ = _fakes.check_problem(q, k, v, problem)
    _fakes.check_results(problem, q, shape, out, statistic, saved)
    _fakes.check_gradients(problem, q, shape, grad_out, grad_statistic)
    parameters = [parameter.new_empty(parameter.shape) for parameter in problem.normalizer_parameters]
    return _allocate_like(q), _allocate_like(k), _allocate_like(v), parameters


def _allocate_like(tensor: Tensor) -> Tensor:
    """As the kernels allocate: the order of the strides is kept, as long as it ends with the last dimension."""
    like = torch.empty_like(tensor)
    return like if like.shape[-1] <= 1 or like.stride(-1) == 1 else tensor.new_empty(tensor.shape)


def direct(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether nothing but autograd stands between a call and the kernels: no subclass, mode, transform, autocast or
    tangent.

    Such a call may go below autograd by itself, which costs half of what the dispatcher's way through it does.
    """
    if torch.compiler.is_compiling():
        return False
    return (
        type(q) in _PLAIN
        and type(k) in _PLAIN
        and type(v) in _PLAIN
        and not in_transform()
        and not in_autocast()
        and not observed()
    )


def forward(q: Tensor, k: Tensor, v: Tensor, problem: Problem, is_direct: bool, gradient: bool):
    """(out, statistic, saved) of the operator. is_direct: that of direct(q, k, v). gradient: whether one is wanted.

    Raises what the operator means.
    """
    try:
        if not is_direct:
            return _forward(q, k, v, *(_for_export(problem) if exporting() else problem))
        if gradient:
            return _apply_forward(call_below_autograd, problem, q, k, v, *problem.normalizer_parameters)
        return call_below_autograd(_forward, q, k, v, *problem)
    except RuntimeError as error:
        raise translate(error) from None


def forward_alone(
    q, k, v, pattern, ints, normalizer, floats, parameters, q_start, k_start, scale, deterministic
) -> Tensor:
    """The output of the operator for a problem of numbers alone, below autograd: where direct(q, k, v) is true."""
    try:
        return call_below_autograd(
            _forward, q, k, v, pattern, ints or None, [], normalizer, floats, parameters,
            None, None, None, None, 0, 0, q_start, k_start, scale, deterministic,
        )[0]  # fmt: skip
    except RuntimeError as error:
        raise translate(error) from None


class _Forward(Function):
    """The forward with gradients into q, k, v and the normalizer's parameters, from the output and from the statistic.

    Autograd does not look into lists, so the parameters come once more behind the others.
    """

    entry = "attention"

    @staticmethod
    def forward(lower, problem, q, k, v, *parameters):
        return lower(_forward, q, k, v, *problem)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, problem, q, k, v, *parameters = inputs
        out, statistic, saved = output
        ctx.mark_non_differentiable(saved)
        ctx.set_materialize_grads(False)
        ctx.problem = problem
        # Its tensors are saved beside it, as all others are, so that a change in place between the passes is noticed.
        ctx.save_for_backward(q, k, v, out, statistic, saved, *parameters, *problem.tensors())

    @staticmethod
    def backward(ctx, grad_out, grad_statistic, _):
        q, k, v, out, statistic, saved, *others = ctx.saved_tensors
        # The operator's own flag is the user's wish at the time of the forward.
        deterministic = ctx.problem.deterministic or torch.are_deterministic_algorithms_enabled()
        problem = ctx.problem.restored(others, deterministic)
        grad_out = torch.zeros_like(out) if grad_out is None else grad_out
        tensors = grad_out, grad_statistic, q, k, v, out, statistic, saved
        try:
            if type(grad_out) in _PLAIN and direct(q, k, v) and not torch.is_grad_enabled():
                return None, None, *_Backward.forward(call_below_autograd, problem, *tensors)
            *gradients, of_parameters = _backward(*tensors, *problem)
        except RuntimeError as error:
            raise translate(error) from None
        return None, None, *gradients, *of_parameters

    @staticmethod
    def jvp(ctx, *tangents):
        raise _Forward.no_forward_mode()


class _Backward(Function):
    """The backward as an operator of its own, without derivatives."""

    entry = "attention"

    @staticmethod
    def forward(lower, problem, *tensors):
        *gradients, of_parameters = lower(_backward, *tensors[:_BACKWARD_TENSORS], *problem)
        return *gradients, *of_parameters

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *gradients):
        raise _Backward.no_second()

    @staticmethod
    def jvp(ctx, *tangents):
        raise _Backward.no_forward_mode()


_apply_forward = plain_apply(_Forward)
_run_forward, _run_backward = as_kernel(_Forward), as_kernel(_Backward)


def _forward_kernel(keyset, q, k, v, *problem):
    given, problem = Problem._make(problem), _problem(problem)
    parameters = problem.normalizer_parameters
    if not (torch.is_grad_enabled() and any_requires_grad(q, k, v, *parameters)):
        problem = given  # a program that is exported below here, too, has what stands for empty lists
    return _run_forward(keyset, problem, q, k, v, *parameters)


def _backward_kernel(keyset, *args):
    tensors, problem = args[:_BACKWARD_TENSORS], _problem(args[_BACKWARD_TENSORS:])
    gradients = _run_backward(keyset, problem, *tensors, *problem.normalizer_parameters)
    return *gradients[:3], list(gradients[3:])


def _problem(arguments) -> Problem:
    """Of the operators' arguments."""
    problem = Problem._make(arguments)
    if problem.pattern_ints is None:
        problem = problem._replace(pattern_ints=[])
    for name in _TENSOR_LISTS:
        if len(tensors := getattr(problem, name)) == 1 and tensors[0].dtype is torch.bool and len(tensors[0]) == 0:
            problem = problem._replace(**{name: []})
    return problem


def _for_export(problem: Problem) -> Problem:
    """With one empty tensor of bools for no tensors: AOTInductor makes None of an empty list."""
    empty = {name: [torch.empty(0, dtype=torch.bool)] for name in _TENSOR_LISTS if not getattr(problem, name)}
    return problem._replace(**empty)


def _autocast(device_type: str, key: DispatchKey):
    """As SDPA: floating tensors other than float64 are cast to the autocast dtype. The normalizer's are left alone."""
    excluded = DispatchKeySet(key)

    def kernel(keyset, q, k, v, *problem):
        dtype = torch.get_autocast_dtype(device_type)
        cast = [t if t.dtype is torch.float64 else t.to(dtype) for t in (q, k, v)]
        with without_keys(excluded):
            return _forward(*cast, *problem)

    return kernel


_library.impl("attention_forward", _forward_kernel, "Autograd", with_keyset=True)
_library.impl("attention_backward", _backward_kernel, "Autograd", with_keyset=True)
for _device, _key in (("cpu", DispatchKey.AutocastCPU), ("cuda", DispatchKey.AutocastCUDA)):
    _library.impl("attention_forward", _autocast(_device, _key), _key.name, with_keyset=True)
