"""A torch.autograd.Function as the autograd kernel of an operator, also below torch.func transforms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch._functorch.autograd_function import enable_single_level_autograd_function


def plain_apply(function: type[torch.autograd.Function]) -> Callable:
    """function.apply for calls in which no torch.func transform is left.

    Function.apply itself looks for transforms first, and inspects signatures at each call. Below the dispatcher the
    transforms have been taken apart, as for any other operator.
    """
    return super(torch.autograd.Function, function).apply


def as_kernel(function: type[torch.autograd.Function]) -> Callable:
    """kernel(keyset, *arguments of the operator), for Library.impl(..., "Autograd", with_keyset=True).

    `function` has forward(keyset, *arguments), which redispatches below autograd, and setup_context.
    """
    apply = plain_apply(function)

    def kernel(keyset, *args):
        if not (torch.is_grad_enabled() and torch._C._any_requires_grad(*args)):
            return function.forward(keyset, *args)
        if not torch._C._are_functorch_transforms_active():
            return apply(keyset, *args)
        with enable_single_level_autograd_function():
            return apply(keyset, *args)

    return kernel
