"""A torch.autograd.Function as the autograd kernel of an operator, also below torch.func transforms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from . import _torch
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
    return _torch.in_dual_level() or _torch.count_dispatch_modes() > 0


forward_mode_on = partial(_torch.set_forward_grad, True)
"""A context for a jvp() made of Torch's operations: Torch calls it with the tangents of all levels switched off."""


def as_kernel(function: type[Function]) -> Callable:
    """kernel(keyset, *arguments of the operator), for Library.impl(..., "Autograd", with_keyset=True)."""
    apply = _torch.plain_apply(function)

    def kernel(keyset, *args):
        def lower(operator, *arguments):
            with _torch.below_autograd():
                return operator.redispatch(keyset & _torch.after_autograd_keyset, *arguments)

        if _torch.in_transform():
            if torch.is_grad_enabled() or _torch.forward_grad_enabled():
                with _torch.enable_single_level_autograd_function():
                    return apply(_as_called(lower), *args)
        elif observed() or (torch.is_grad_enabled() and _torch.any_requires_grad(*args)):
            return apply(lower, *args)
        return function.forward(lower, *args)

    return kernel


def _as_called(lower: Callable) -> Callable:
    """`lower` under the modes of here, for the transforms further out: within apply() autograd is off altogether."""
    backward, forward = torch.is_grad_enabled(), _torch.forward_grad_enabled()

    def below(operator, *arguments):
        with torch.set_grad_enabled(backward), _torch.set_forward_grad(forward):
            return lower(operator, *arguments)

    return below
