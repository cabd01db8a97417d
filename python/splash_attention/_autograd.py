"""A torch.autograd.Function as the autograd kernel of an operator, also below torch.func transforms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch._C import _after_autograd_keyset, _AutoDispatchBelowAutograd
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad

from ._errors import NoKernelError


class Function(torch.autograd.Function):
    """Its forward is forward(lower, *arguments), where lower(operator, *arguments) goes on below autograd.

    One without a derivative of its own (second derivatives, forward mode) says so where one is taken: a None or a 0
    would be a wrong answer.
    """

    entry = ""
    """What the user called."""

    @classmethod
    def no_second(cls) -> NoKernelError:
        return NoKernelError(f"{cls.entry}: second derivatives have no kernels")

    @classmethod
    def no_forward_mode(cls) -> NoKernelError:
        return NoKernelError(
            f"{cls.entry}: forward-mode derivatives (jvp, jacfwd, hessian, dual tensors) have no kernels; "
            "first derivatives in reverse mode do (grad, vjp, jacrev)"
        )


def observed() -> bool:
    """Whether a tensor may carry a tangent, or a dispatch mode looks on: traced code enters levels of forward_ad
    without its counting them."""
    return forward_ad._current_level >= 0 or torch._C._len_torch_dispatch_stack() > 0


def primal(tensor: Tensor) -> Tensor:
    """The tensor without its tangent of this level; those of levels further out stay."""
    return torch._VF._unpack_dual(tensor, level=0)[0]


forward_mode_on = partial(forward_ad._set_fwd_grad_enabled, True)
"""A context for a jvp() made of Torch's operations: Torch calls it with the tangents of all levels switched off."""


def plain_apply(function: type[torch.autograd.Function]) -> Callable:
    """function.apply for calls in which no torch.func transform is left.

    Function.apply itself looks for transforms first, and inspects signatures at each call. Below the dispatcher the
    transforms have been taken apart, as for any other operator.
    """
    return super(torch.autograd.Function, function).apply


def as_kernel(function: type[Function]) -> Callable:
    """kernel(keyset, *arguments of the operator), for Library.impl(..., "Autograd", with_keyset=True)."""
    apply = plain_apply(function)

    def kernel(keyset, *args):
        def lower(operator, *arguments):
            with _AutoDispatchBelowAutograd():
                return operator.redispatch(keyset & _after_autograd_keyset, *arguments)

        if torch._C._are_functorch_transforms_active():
            if torch.is_grad_enabled() or torch._C._is_fwd_grad_enabled():
                with enable_single_level_autograd_function():
                    return apply(_as_called(lower), *args)
        elif observed() or (torch.is_grad_enabled() and torch._C._any_requires_grad(*args)):
            return apply(lower, *args)
        return function.forward(lower, *args)

    return kernel


def _as_called(lower: Callable) -> Callable:
    """`lower` under the modes of here, for the transforms further out: within apply() autograd is off altogether."""
    backward, forward = torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()

    def below(operator, *arguments):
        with torch.set_grad_enabled(backward), forward_ad._set_fwd_grad_enabled(forward):
            return lower(operator, *arguments)

    return below
